"""What `train`, `resume` and `demo` share: the life of a run folder around a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.cli.describe import quantity
from tunesmith.cli.library_log import LibraryLog
from tunesmith.cli.output import Output
from tunesmith.cli.pushing import tell_pushed
from tunesmith.cli.signals import Terminated, ended_by, raising
from tunesmith.errors import DiskSpaceError, RunInterrupted, RunStopped, TunesmithError
from tunesmith.runs.checkpoints import numbered
from tunesmith.runs.fingerprint import model_fingerprint
from tunesmith.runs.folder import RunFolder, refuse_taken
from tunesmith.runs.lock import held

if TYPE_CHECKING:
    from tunesmith.publish.push import Pushed
    from tunesmith.train.setup import Setup
    from tunesmith.train.training import TrainResult


@contextmanager
def start_run(path: Path, setup: Setup, provenance: dict[str, str], log: LibraryLog) -> Iterator[RunFolder]:
    """A run folder that is kept once a step was done, and removed when the run failed before.

    No other process works in it meanwhile.
    """
    from tunesmith.train.processes import first_before_others, rank

    with ExitStack() as stack:
        with first_before_others():
            if rank():
                run = RunFolder.open(path, rank())
            else:
                refuse_taken(path)
                stack.enter_context(held(path))
                run = RunFolder.create(path, record_of(setup, provenance))
        log.attach(run.log_path)
        with recorded(run):
            yield run


def record_of(setup: Setup, provenance: Mapping[str, str]) -> dict[str, Any]:
    """What run.json keeps of a run that is set up, the fingerprint of its base with it."""
    base = {"model": setup.origin.model, "fingerprint": base_fingerprint(setup)}
    return {**setup.record(), "base": base, "provenance": dict(provenance)}


def base_fingerprint(setup: Setup) -> str | None:
    """The fingerprint of the model that a run starts from, and of the adapter to be merged into it."""
    origin = setup.origin
    parts = [model_fingerprint(origin.model, origin.revision)]
    if origin.adapter:
        parts.append(model_fingerprint(str(origin.adapter)))
    return None if None in parts else " + ".join(map(str, parts))


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
        # By names: a disk that fails may hide for a moment what is whole.
        began = numbered(run.checkpoints_path) or (
            run.read_metrics() and not isinstance(error, DiskSpaceError)
        )
        if not began and not keep:
            run.discard()
            if isinstance(error, KeyboardInterrupt):
                raise ended_by(error, " before training began; nothing was written") from None
        elif isinstance(error, KeyboardInterrupt):
            raise _stopped_between(run, error) from None
        else:
            with suppress(OSError):  # a full disk: the run then reads as killed, and can be resumed as well
                run.update(status="failed", error=f"{type(error).__name__}: {error}")
        raise


def _stopped_between(run: RunFolder, error: KeyboardInterrupt) -> RunStopped:
    """A signal that came before or after the training listened to it, in a run that goes on."""
    from tunesmith.train.ending import stopped

    if isinstance(error, Terminated):
        return stopped(run, "SIGTERM received", stopped_by="SIGTERM")
    return stopped(run, "SIGINT received", stopped_by="SIGINT", kind=RunInterrupted)


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
    """Ctrl-C or SIGTERM while inside says that nothing was written, and `fix`."""
    try:
        with raising(remembered=True):
            yield
    except KeyboardInterrupt as error:
        raise ended_by(error, " before training began; nothing was written", fix) from None


def finished(out: Output, run: RunFolder, result: TrainResult, pushed: Pushed | None = None) -> None:
    """Say that a training is done, with the commands that exist next, and what became of its push."""
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
    keys = {
        "run": str(run.path),
        "step": result.step,
        "num_steps": result.num_steps,
        "metrics": result.metrics,
        "resumed_from": result.resumed_from,
    }
    if pushed is None:
        out.document(**keys)
    else:
        tell_pushed(out, run, pushed, keys)
