"""What `train`, `resume` and `demo` share: the life of a run folder around a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.cli.library_log import LibraryLog
from tunesmith.cli.output import Output
from tunesmith.errors import RunStopped
from tunesmith.runs.folder import RunFolder

if TYPE_CHECKING:
    from tunesmith.train.sft import SftSetup, TrainResult


@contextmanager
def start_run(
    path: Path, setup: SftSetup, provenance: dict[str, str], log: LibraryLog
) -> Iterator[RunFolder]:
    """A run folder that is kept once a step was done, and removed when the run failed before."""
    run = RunFolder.create(path, {**setup.record(), "provenance": provenance})
    log.attach(run.log_path)
    with recorded(run):
        yield run


@contextmanager
def recorded(run: RunFolder) -> Iterator[None]:
    """Write into run.json how a training ended; a run that never began leaves nothing behind."""
    try:
        yield
    except RunStopped:
        raise
    except BaseException as error:
        if run.newest_checkpoint() is None and not run.read_metrics():
            run.discard()
        else:
            run.update(status="failed", error=f"{type(error).__name__}: {error}")
        raise


def finished(out: Output, run: RunFolder, result: TrainResult) -> None:
    """Say that a training is done, with the commands that exist next."""
    loss = result.metrics.get("eval_loss", result.metrics.get("train_loss"))
    out.say(
        f"done: {result.step} steps, loss {loss:.4f}" if loss is not None else f"done: {result.step} steps"
    )
    out.say(f"model: {run.model_path}")
    out.say(f"next:  tunesmith show {run.path}")
    out.say("       tunesmith dashboard")
    out.data(str(run.path))
    out.document(
        run=str(run.path),
        step=result.step,
        num_steps=result.num_steps,
        metrics=result.metrics,
        resumed_from=result.resumed_from,
    )
