"""What `train`, `resume` and `demo` share: the life of a run folder around a training."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from tunesmith.cli.describe import quantity
from tunesmith.cli.library_log import LibraryLog
from tunesmith.cli.output import Output, interrupted
from tunesmith.errors import DiskSpaceError, RunStopped, TunesmithError
from tunesmith.runs.folder import RunFolder

if TYPE_CHECKING:
    from tunesmith.train.setup import Setup
    from tunesmith.train.training import TrainResult


@contextmanager
def start_run(path: Path, setup: Setup, provenance: dict[str, str], log: LibraryLog) -> Iterator[RunFolder]:
    """A run folder that is kept once a step was done, and removed when the run failed before."""
    from tunesmith.train.processes import first_before_others, rank

    with first_before_others():
        record = {**setup.record(), "provenance": provenance}
        run = RunFolder.open(path, rank()) if rank() else RunFolder.create(path, record)
    log.attach(run.log_path)
    with recorded(run):
        yield run


@contextmanager
def recorded(run: RunFolder, *, keep: bool = False) -> Iterator[None]:
    """Write into run.json how a training ended; one that never began leaves nothing, unless `keep`."""
    try:
        yield
    except RunStopped:
        raise
    except BaseException as error:
        if run.record["status"] == "done":
            # The model is saved: what failed came after the training.
            raise
        began = run.read_metrics() and not isinstance(error, DiskSpaceError)
        if run.newest_checkpoint() is None and not began and not keep:
            run.discard()
        else:
            with suppress(OSError):  # a full disk: the run then reads as killed, and can be resumed as well
                run.update(status="failed", error=f"{type(error).__name__}: {error}")
        raise


@contextmanager
def placed(provenance: Mapping[str, str]) -> Iterator[None]:
    """Errors from inside that name a setting as their place get the one it was written in, run.yaml:12."""
    try:
        yield
    except TunesmithError as error:
        keys = (error.where or "").split(", ")
        if all(key in provenance for key in keys):
            places = [key if provenance[key].startswith("default") else provenance[key] for key in keys]
            error.where = "; ".join(dict.fromkeys(places))
        raise


@contextmanager
def trl_blamed(run: RunFolder, provenance: Mapping[str, str]) -> Iterator[None]:
    """What TRL raises inside, before a step was logged, is told as an error of the user's `trl:` settings."""
    from tunesmith.train.trl_settings import refused_in_use

    own = [
        key.removeprefix("trl.")
        for key, origin in provenance.items()
        if key.startswith("trl.") and key != "trl.report_to" and not origin.startswith("default")
    ]
    try:
        yield
    except TunesmithError:
        raise
    except Exception as error:
        refused = None if run.read_metrics() or run.newest_checkpoint() else refused_in_use(error, own)
        if refused is None:
            raise
        raise refused from error


@contextmanager
def setting_up(fix: str) -> Iterator[None]:
    """Ctrl-C while inside says that nothing was written, and `fix`."""
    heard = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield
        if heard:  # libraries swallow what is raised in the middle of their import
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise interrupted("interrupted before training began; nothing was written", fix) from None
    finally:
        signal.signal(signal.SIGINT, before)


def finished(out: Output, run: RunFolder, result: TrainResult) -> None:
    """Say that a training is done, with the commands that exist next."""
    names = {
        "eval_reward": "evaluation reward",
        "reward": "reward at the end",
        "eval_loss": "evaluation loss",
        "train_loss": "mean training loss",
        "loss": "training loss",
    }
    facts = [
        quantity(result.step, "step")
        if result.step == result.num_steps
        else f"{result.step} of {quantity(result.num_steps, 'step')}"
    ]
    facts += [
        f"{text} {result.metrics[name]:z.4f}" for name, text in names.items() if name in result.metrics
    ][:1]
    if result.step < result.num_steps:
        facts.append("ended by early stopping")
    out.say(f"done: {', '.join(facts)}")
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
