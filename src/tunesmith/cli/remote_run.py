"""Before a training: that the Hub takes what it is to get, and whether it holds this run already."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.cli.describe import duration_text
from tunesmith.cli.going_on import Terms, agreed, taken
from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import Output
from tunesmith.cli.training import placed
from tunesmith.config.loading import LoadedConfig
from tunesmith.errors import PendingError, RunFolderError
from tunesmith.launch.local import was_launched
from tunesmith.runs.checkpoints import newest_unaltered
from tunesmith.runs.folder import RunFolder
from tunesmith.runs.lock import held

if TYPE_CHECKING:
    from tunesmith.config.run_config import Hub
    from tunesmith.publish.causes import Cause
    from tunesmith.publish.remote import FoundRun

# Between the questions whether the Hub holds the run, in seconds.
_WAITS_S = (5.0, 15.0, 60.0)


def brought_here(
    out: Output,
    loaded: LoadedConfig,
    terms: Terms,
    run: RunFolder | None,
    path: Path,
    *,
    dry_run: bool = False,
) -> RunFolder | None:
    """The run to go on with in the folder `path`: `run`, or the Hub's where that is further.

    That this login may write to the repository is made sure of first.

    Raises:
        HubError: it may not; or the Hub holds another run than `run`.
        PendingError: nothing is here to go on with, and the Hub doesn't say whether there is on it.
        RunFolderError: the run on the Hub is done, or another one.
        DownloadError: it can't be fetched.
    """
    hub = loaded.config.hub
    if hub.repo_id is None or was_launched():
        return run
    here = newest_unaltered(run.checkpoints_path) if run else None
    with placed(loaded.provenance), libraries_logged():
        found, cause = _asked(out, hub, dry_run=dry_run, is_needed=here is None and hub.every == "save")
        if cause is not None:
            out.say(f"note: {cause.said}; the Hub is asked again later", style="yellow")
        if found is None or (run and here and not _is_further(found, run, here.step)):
            return run
        return _taken_from(out, found, loaded, terms, path, run, dry_run=dry_run)


def _asked(out: Output, hub: Hub, *, dry_run: bool, is_needed: bool) -> tuple[FoundRun | None, Cause | None]:
    """The run that the Hub holds, and why it doesn't say, if so; asked several times where it `is_needed`.

    A run that began anew because the Hub was out of order for a moment would lose all that lies there.
    """
    waits = iter(_WAITS_S if is_needed and not dry_run else ())
    while True:
        found, cause = _asked_once(hub, dry_run=dry_run)
        wait_s = next(waits, None) if cause and cause.passes else None
        if cause is None or wait_s is None:
            break
        wait_s = max(wait_s, min(cause.wait_s or 0.0, _WAITS_S[-1]))
        out.say(f"note: {cause.said}; it is asked again in {wait_s:.0f} s", style="yellow")
        time.sleep(wait_s)
    if cause is not None and is_needed and not dry_run:
        raise PendingError(
            f"{hub.repo_id} may hold this run, and the Hub doesn't say: {cause.said}; nothing was begun",
            where="hub.repo_id",
            fix=(cause.fix or "give the same command again later")
            + "; --set hub.every=end begins without what may lie there",
        )
    return found, cause


def _asked_once(hub: Hub, *, dry_run: bool) -> tuple[FoundRun | None, Cause | None]:
    from tunesmith.publish.causes import cause_of
    from tunesmith.publish.hub import check_rights
    from tunesmith.publish.patience import QUESTION_S, within
    from tunesmith.publish.remote import find

    repo_id, cause = str(hub.repo_id), None
    try:
        if not dry_run:
            cause = within(QUESTION_S, lambda: check_rights(repo_id, public=hub.public))
        if cause is None and hub.every == "save":
            return within(QUESTION_S, lambda: find(repo_id))
    except TimeoutError as error:
        cause = cause_of(error, repo_id)
    return None, cause


def _is_further(found: FoundRun, run: RunFolder, step: int) -> bool:
    """Whether the Hub holds a later checkpoint of the run than that of `step`, which is here.

    Raises:
        HubError: it holds another run's.
    """
    from tunesmith.publish.remote import other_run

    if found.record.get("id") != run.record.get("id"):
        raise other_run(found.repo_id, found.record)
    return found.record.get("status") == "done" or (found.step or 0) > step


def _taken_from(
    out: Output,
    found: FoundRun,
    loaded: LoadedConfig,
    terms: Terms,
    path: Path,
    here: RunFolder | None,
    *,
    dry_run: bool,
) -> RunFolder | None:
    """The run on the Hub, brought to the folder `path`, where `here` is an earlier state of it."""
    from tunesmith.publish.fetch import as_here, fetch
    from tunesmith.publish.remote import BRANCH

    if found.record.get("status") == "done":
        raise RunFolderError(
            f"{found.repo_id} on the Hub holds this run, and it is done",
            where="hub.repo_id",
            fix=f"choose another hub.repo_id, or delete the branch {BRANCH} there to begin anew",
        )
    run = as_here(found, path, loaded.config.model_dump(mode="json"))
    otherwise = "choose another hub.repo_id"
    agreed(run, loaded, terms._replace(otherwise=otherwise), f"the run in {found.repo_id} on the Hub")
    said = f"{found.repo_id} on the Hub holds this run up to step {found.step}{_ago(found)}"
    if dry_run:
        out.say(f"{said}; it would be fetched to {path}")
        return here
    out.say(f"{said}: fetching it to {path}")
    with taken(here, terms) if here else held(path):
        return fetch(found, run)


def _ago(found: FoundRun) -> str:
    try:
        written = datetime.fromisoformat(str(found.record.get("updated_at")))
        return f", written {duration_text((datetime.now(UTC) - written).total_seconds())} ago"
    except (ValueError, TypeError):
        return ""
