"""`tunesmith export`: a trained model as files that others run, compared with what was trained."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import DebugFlag, JsonFlag, Output, verb
from tunesmith.errors import ConfigError, RunFolderError
from tunesmith.runs.folder import RunFolder
from tunesmith.runs.lock import held

if TYPE_CHECKING:
    from tunesmith.export.exporting import ExportedFile, Wanted
    from tunesmith.export.trained import Trained

EXIT_UNVERIFIED = 1

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(metavar="RUN", help="Run folder, its name under runs/, a model folder or Hub id.")
    ],
    formats: Annotated[
        str,
        typer.Option("--format", help="merged, gguf, adapter, gguf-lora; several with commas."),
    ] = "gguf",
    quantize: Annotated[
        str, typer.Option(metavar="KINDS", help="Of gguf: F16, Q8_0, Q5_K_M, Q4_K_M ..., with commas.")
    ] = "Q4_K_M",
    imatrix: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Dataset or .txt file that tells which weights matter most."),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="LoRA adapter to merge into a model that is no run.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to (default: RUN/export, else exports/NAME).")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Compare every file with the trained model.")] = True,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Write a trained model for llama.cpp, Ollama, LM Studio or vLLM, and prove that it answers like it.

    Exit code 1 says that a file was written and is not what was trained.
    """
    with verb("export", as_json, debug) as command, ExitStack() as stack:
        from tunesmith.export.record import write_record

        wanted = _wanted(formats, quantize, imatrix, verify=verify)
        run = _run(model, adapter)
        log = stack.enter_context(libraries_logged())
        if run is not None:
            stack.enter_context(held(run.path))
            log.attach(run.log_path)
        trained = _trained(run, model, adapter)
        folder = out or (run.path / "export" if run else Path("exports") / trained.name)
        from tunesmith.export.exporting import export as export_all

        files = export_all(trained, wanted, folder, lambda said: command.say(f"{said} ..."))
        record = write_record(folder, trained, files)
        if run is not None:
            run.update(export=record)
        _tell(command, files, folder)
        if any(each.verified is False for each in files):
            raise typer.Exit(EXIT_UNVERIFIED)


def _wanted(formats: str, quantize: str, imatrix: str | None, *, verify: bool) -> Wanted:
    from tunesmith.export.exporting import FORMATS, GGUF, UNQUANTIZED, Wanted, checked_kinds

    named = tuple(dict.fromkeys(each.strip() for each in formats.split(",") if each.strip()))
    unknown = [each for each in named if each not in FORMATS]
    if unknown or not named:
        raise ConfigError(
            f"there is no format {unknown[0]!r}" if unknown else "no format is named",
            where="--format",
            fix=f"take some of {', '.join(FORMATS)}",
        )
    kinds = checked_kinds(quantize.split(","))
    if not kinds:
        raise ConfigError("no quantization is named", where="--quantize", fix="--quantize Q4_K_M,Q8_0")
    if imatrix is not None and (GGUF not in named or not set(kinds) - UNQUANTIZED):
        raise ConfigError(
            "an importance matrix is of use to quantised GGUF files only",
            where="--imatrix",
            fix="add --quantize Q4_K_M, or leave it out",
        )
    return Wanted(named, kinds, verify, imatrix)


def _run(model: str, adapter: str | None) -> RunFolder | None:
    """The run of that name; None where it is a model."""
    if adapter is not None:
        return None
    try:
        return RunFolder.open(Path(model))
    except RunFolderError:
        if (Path(model) / "run.json").is_file():  # one that can't be read
            raise
        return None


def _trained(run: RunFolder | None, model: str, adapter: str | None) -> Trained:
    from tunesmith.export.trained import trained_by, trained_elsewhere

    return trained_by(run) if run is not None else trained_elsewhere(model, adapter)


def _tell(out: Output, files: list[ExportedFile], folder: Path) -> None:
    from tunesmith.export.exporting import GGUF
    from tunesmith.export.record import how_to_run

    table = Table(box=None, pad_edge=False)
    for heading in ("", "MB", "diverges", "top token", "answers", "perplexity", ""):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    trained_perplexity = [each.checks.get("trained_perplexity") for each in files]
    if any(trained_perplexity):
        table.add_row("as trained", "", "", "", "", f"{next(filter(None, trained_perplexity)):.3f}", "")
    for each in files:
        # The names of files begin with the run's: too wide for most terminals.
        name = each.quantization if each.format == GGUF else each.format
        table.add_row(name, f"{each.size_bytes / 1e6:,.0f}", *_figures(each))
    out.table(table)
    for each in files:
        for failure in each.failures:
            out.say(f"{each.path.name}: {failure}", style="red")
    unverified = [each for each in files if each.verified is False]
    out.document(
        "findings" if unverified else "done",
        verified=bool(files) and all(each.verified for each in files),
        folder=str(folder),
        files=[each.as_dict() for each in files],
    )
    out.say(f"in {folder}: {', '.join(each.path.name for each in files)}")
    for line in how_to_run(folder, files):
        out.say(line)


def _figures(file: ExportedFile) -> list[str]:
    checks = file.checks
    if not checks:
        return ["", "", "", "", "not compared"]
    same = f"{checks['same_answers']}/{checks['num_answers']}" if "num_answers" in checks else ""
    return [
        f"{checks['mean_divergence']:.2g}" if "mean_divergence" in checks else "",
        f"{checks['top1_agreement']:.1%}" if "top1_agreement" in checks else "",
        same,
        f"{checks['perplexity']:.3f}" if "perplexity" in checks else "",
        "verified" if file.verified else "NOT VERIFIED",
    ]
