"""`tunesmith validate`: every row checked before anything is paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import data_options as options
from tunesmith.cli.data_progress import DataProgress
from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import DebugFlag, JsonFlag, Output, verb
from tunesmith.cli.plain_help import PlainHelpCommand
from tunesmith.cli.validate_request import Flags, codes_of, findings_file, refuse_odd_combinations, request_of
from tunesmith.cli.verdict import next_line, say_fixed, say_verdict
from tunesmith.errors import ConfigError, DataError

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXIT_FINDINGS = 1
OutPath = Annotated[Path | None, typer.Option(metavar="FILE", help="Where --shard keeps its part.")]


@app.command(cls=PlainHelpCommand)
def validate(
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="Hub id, file or folder.")],
    method: options.Method = "sft",
    model: options.Model = None,
    max_length: options.MaxLength = 1024,
    chat_template: options.ChatTemplate = None,
    maps: options.Map = None,
    split: options.Split = "train",
    eval_dataset: options.EvalDataset = None,
    eval_split: options.EvalSplit = None,
    rewards: options.Reward = None,
    fix: options.Fix = None,
    findings: options.Findings = None,
    html: options.Html = None,
    allow: options.Allow = None,
    duplicates: options.Duplicates = True,
    token_rows: options.TokenRows = 200_000,
    shard: options.Shard = None,
    out: OutPath = None,
    merge: options.Merge = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Check every row of a data set before anything is paid for.

    Exit code 0: fit to train on. 1: not fit. Warnings are for you to look at; they don't make it unfit.
    """
    flags = Flags(
        data, method, model, max_length, chat_template, maps or [], split, eval_dataset, eval_split,
        rewards or [], fix, findings, html, allow or [], duplicates, token_rows, shard, out, merge,
    )  # fmt: skip
    with verb("validate", as_json, debug) as stream:
        refuse_odd_combinations(flags)
        fit = _keep_shard(stream, flags) if shard else _report(stream, flags)
        if not fit:
            raise typer.Exit(EXIT_FINDINGS)


def _report(out: Output, flags: Flags) -> bool:
    """Validate, or merge shards, and say what was found; true when the data are fit."""
    from tunesmith.data.fix import Fixes
    from tunesmith.data.tokens import all_cores
    from tunesmith.data.validate import validate as run_checks

    fixes = Fixes(codes_of(flags.allow)) if flags.fix else None
    with libraries_logged(), DataProgress(out) as view, findings_file(flags.findings) as stream, all_cores():
        request = request_of(flags, view, stream, fixes)
        report = _merged(flags, request) if flags.merge else run_checks(request)
        nothing_left = _write_clean(flags.fix, request, report, fixes) if fixes else None
    document = report.as_dict()
    status = "done" if report.fit else "findings"
    if flags.html:
        _write_page(flags.html, {"command": "validate", "status": status, **document}, request, report)
    say_verdict(out, report)
    if flags.fix and fixes:
        say_fixed(out, flags.fix, fixes, nothing_left)
    next_command = next_line(report, flags, mends=bool(fixes))
    if next_command:
        out.say(f"next:  {next_command}")
    if flags.html:
        out.say(f"report: {flags.html}")
    out.document(status, **document, **({"fixed": fixes.as_dict()} if fixes else {}))
    return bool(report.fit)


def _keep_shard(out: Output, flags: Flags) -> bool:
    """Check one shard and write it to a file that --merge takes; true, since only the whole can be judged."""
    from tunesmith.data.tokens import all_cores
    from tunesmith.data.validate import check_shard

    with libraries_logged(), DataProgress(out) as view, findings_file(flags.findings) as stream, all_cores():
        request = request_of(flags, view, stream, None)
        part = check_shard(request)
    index, number = request.shard or (0, 1)
    name = Path(flags.data[0]).name or "data"
    path = flags.out or Path(f"{name}.shard-{index}-of-{number}.npz")
    part.save(path)
    counts = dict(sorted(part.log.counts.items()))
    out.say(f"shard {index} of {number}: {part.num_rows:,} rows, {sum(counts.values()):,} findings")
    out.say("next:  the other shards, then tunesmith validate --merge with the files of all of them")
    out.data(str(path))
    out.document(shard=[index, number], path=str(path), num_rows=part.num_rows, counts=counts)
    return True


def _merged(flags: Flags, request: Any) -> Any:
    from tunesmith.data.partial import Partial, merged
    from tunesmith.data.report import conclude

    whole = merged([Partial.load(Path(path)) for path in flags.data])
    told = request.model.name if request.model else None
    if whole.checked["model"] != told:
        theirs = whole.checked["model"]
        theirs = whole.checked["model"]
        raise ConfigError(
            f"the shards were checked {f'with {theirs}' if theirs else 'without a model'}",
            where="--model",
            fix=f"add --model {theirs}" if theirs else "leave --model out",
        )
    return conclude(str(whole.checked["data"]), whole, allowed=request.allowed, model=request.model)


def _write_clean(path: Path | None, request: Any, report: Any, fixes: Any) -> DataError | None:
    """Write the clean copy; returns why there is none."""
    from tunesmith.data.fix import write_clean
    from tunesmith.data.row_source import open_rows

    if path is None or report.layout is None:
        return DataError("the format is not known, so nothing was written")
    try:
        write_clean(path, open_rows(request.source), report.layout, fixes)
    except DataError as error:  # no row would stay: the report is worth more than this
        return error
    return None


def _write_page(path: Path, document: dict[str, Any], request: Any, report: Any) -> None:
    from tunesmith.data.examples import examples
    from tunesmith.data.page import page
    from tunesmith.runs.files import write_text_whole

    shown = [] if request.merges else examples(request, report)
    write_text_whole(path, page(document, shown))
