"""A run that goes on, by `train` or `resume`: that it is this one, that nobody else has it, and its rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from tunesmith.cli.describe import provenance_table, setup_table
from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import Output
from tunesmith.cli.processes import in_all_processes, number_of_processes
from tunesmith.cli.progress import ProgressView
from tunesmith.cli.pushing import pushed_at_end, sent_along
from tunesmith.cli.training import (
    base_fingerprint,
    finished,
    placed,
    record_of,
    recorded,
    setting_up,
    trl_blamed,
)
from tunesmith.config.loading import LoadedConfig
from tunesmith.errors import RunFolderError
from tunesmith.launch.local import was_launched
from tunesmith.runs.drift import (
    Difference,
    as_it_began,
    check_allowed,
    differences,
    measured,
    refuse_drift,
)
from tunesmith.runs.folder import RunFolder
from tunesmith.runs.lock import held, refuse_living
from tunesmith.runs.recovery import Recovered, recover

if TYPE_CHECKING:
    from tunesmith.train.setup import Setup

DriftFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-drift",
        metavar="KEY",
        help="Go on with an unfinished run though this setting, or data, base or world_size, is not what it "
        "began with. May be repeated.",
    ),
]
TakeOverFlag = Annotated[
    bool,
    typer.Option(
        "--take-over", help="Go on with a run that another machine worked on last; make sure that it is gone."
    ),
]


class Terms(NamedTuple):
    """On which terms a run may go on. `again` is the command that the person would give once more."""

    allowed: tuple[str, ...]
    take_over: bool
    again: str
    otherwise: str


def terms(allowed: list[str] | None, take_over: bool, *, again: str, otherwise: str) -> Terms:
    """The terms that flags of the command line give.

    Raises:
        ConfigError: a key is allowed to drift that there is not.
    """
    check_allowed(allowed or ())
    return Terms(tuple(allowed or ()), take_over, again, otherwise)


def unfinished(path: Path) -> RunFolder | None:
    """The run in the folder `path` that can go on; None where there is none, or only a run that is done."""
    from tunesmith.train.processes import rank

    try:
        has_run = (path / "run.json").is_file()
    except OSError:  # a name too long: who makes the folder says so
        has_run = False
    run = RunFolder.open(path, rank()) if has_run else None
    return None if run is None or run.status() == "done" else run


def agreed(
    run: RunFolder, loaded: LoadedConfig, terms: Terms, called: str | None = None
) -> tuple[LoadedConfig, list[Difference]]:
    """The configuration to go on with, and what is new in it; errors name the run as `called`.

    Raises:
        RunFolderError: it makes another run, by a key that isn't allowed to.
    """
    began = run.config()
    loaded = as_it_began(loaded, began, run.record.get("provenance") or {})
    found = differences(
        began.model_dump(mode="json"), loaded.config.model_dump(mode="json"), run.record.get("num_steps")
    )
    found += measured(run.record, world_size=number_of_processes(loaded.config))
    return loaded, refuse_drift(called or str(run.path), found, terms.allowed, terms.otherwise)


def go_on(
    out: Output,
    run: RunFolder,
    loaded: LoadedConfig,
    terms: Terms,
    more: Sequence[str] = (),
    *,
    dry_run: bool = False,
) -> None:
    """Go on with `run`, in as many processes as there are GPUs for; `more` are arguments for those."""
    if not was_launched():
        with taken(run, terms):  # told here, once, before there are several processes
            agreed(run, loaded, terms)
    with placed(loaded.provenance):
        in_all_processes(out, loaded.config, more)
    go_on_here(out, run, loaded, terms, dry_run=dry_run)


def go_on_here(
    out: Output, run: RunFolder, loaded: LoadedConfig, terms: Terms, *, dry_run: bool = False
) -> None:
    """Check, show, train on from the newest checkpoint and report; with `dry_run` nothing is written."""
    from tunesmith.train.setup import set_up
    from tunesmith.train.training import train

    with taken(run, terms):
        loaded, changes = agreed(run, loaded, terms)
        with placed(loaded.provenance), libraries_logged() as log, ProgressView(out) as view:
            if not dry_run:
                log.attach(run.log_path)
            with setting_up(terms.again):
                setup = set_up(loaded.config, view, run)
                changes += same_ground(run, setup, terms)
            view.close()
            out.render(setup_table(setup, run.path))
            found = _found(run, dry_run=dry_run)
            for notice in found.notices:
                out.say(notice)
            for each in changes:
                out.say(f"drift: {each}, from step {found.step} on")
            out.say(
                f"{run.path} holds this run, unfinished: going on from step {found.step}"
                if found.checkpoint
                else f"{run.path} holds this run, unfinished, with no checkpoint yet: starting from step 0"
            )
            if dry_run:
                out.render(provenance_table(setup.config.model_dump(), loaded.provenance))
                out.say("dry run: nothing was written, no weight was loaded")
                out.document(run=str(run.path), dry_run=True, resumed_from=found.step, **setup.record())
                return
            run.mark_running()
            run.update(**_record(run, setup, loaded.provenance, changes, found.step))
            with recorded(run, keep=True), trl_blamed(run, loaded.provenance):
                with sent_along(run, setup.config, view) as sender:
                    result = train(setup, run, view, checkpoint=found.checkpoint, sender=sender)
                pushed = pushed_at_end(run, setup.config.hub, view, sender)
    finished(out, run, result, pushed)


def _found(run: RunFolder, *, dry_run: bool) -> Recovered:
    """Where the run goes on; the first process looks, for all of them."""
    from tunesmith.train.processes import first_says

    if dry_run:
        newest = run.newest_checkpoint()
        return Recovered(*newest, ()) if newest else Recovered(None, 0, ())
    found = recover(run) if run.writes else Recovered(None, 0, ())
    path = first_says(str(found.checkpoint or ""))
    return found if run.writes else Recovered(Path(path) if path else None, 0, ())


@contextmanager
def taken(run: RunFolder, terms: Terms) -> Iterator[None]:
    """Inside, the run is this process's alone, and its record is as the one before left it.

    Raises:
        RunFolderError: another process works on it, or has finished it since.
    """
    with held(run.path, run.rank):
        if run.writes:  # the others have the word of the first, which may have begun already
            run.record = RunFolder.open(run.path).record
            refuse_living(run, take_over=terms.take_over)
            refuse_done(run)
        yield


def same_ground(run: RunFolder, setup: Setup, terms: Terms) -> list[Difference]:
    """What is new in the data and the base model.

    Raises:
        RunFolderError: one isn't what the run began with, and isn't allowed to be.
    """
    # A base that the run wrote itself (init_from) is its own, whatever became of the run it came from.
    own = bool(setup.config.init_from) and run.base_path.is_dir()
    base = None if own else base_fingerprint(setup)
    found = measured(run.record, data=setup.data.report.fingerprint, base=base)
    named = {"data": "the data", "base": f"the base model {setup.origin.model}"}
    changed = " and ".join(named[each.key] for each in found)
    return refuse_drift(str(run.path), found, terms.allowed, f"put {changed} back to what the run began with")


def refuse_done(run: RunFolder) -> None:
    """Make sure that a run isn't done.

    Raises:
        RunFolderError: it is.
    """
    if run.status() == "done":
        raise RunFolderError(
            f"{run.path} is done: there is nothing to resume",
            where=str(run.path),
            fix=f"tunesmith show {run.path}; --init-from {run.path} begins another run from its model",
        )


def _record(
    run: RunFolder, setup: Setup, provenance: dict[str, str], changes: list[Difference], step: int
) -> dict[str, object]:
    """What run.json keeps of a run that goes on, with all that ever changed on its way."""
    record = record_of(setup, provenance)
    if run.record.get("base") and not any(each.key == "base" for each in changes):
        del record["base"]
    drift = [{"step": step, "key": each.key, "before": each.before, "now": each.now} for each in changes]
    return record | {"resumed_from": step, "drift": [*(run.record.get("drift") or []), *drift]}
