"""Before a training: that the Hub takes what it is to get, and whether it holds this run already."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.cli.describe import duration_text
from tunesmith.cli.going_on import Terms, agreed
from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import Output
from tunesmith.cli.training import placed
from tunesmith.config.loading import LoadedConfig
from tunesmith.errors import RunFolderError
from tunesmith.launch.local import was_launched
from tunesmith.runs.folder import RunFolder
from tunesmith.runs.lock import held

if TYPE_CHECKING:
    from tunesmith.publish.remote import FoundRun


def brought_here(
    out: Output,
    loaded: LoadedConfig,
    terms: Terms,
    run: RunFolder | None,
    path: Path,
    *,
    dry_run: bool = False,
) -> RunFolder | None:
    """The run to go on with in the folder `path`: `run`, or where that has no checkpoint the Hub's.

    That this login may write to the repository is made sure of first.

    Raises:
        HubError: it may not.
        RunFolderError: the run on the Hub is done, or another one.
        DownloadError: it can't be fetched.
    """
    hub = loaded.config.hub
    if hub.repo_id is None or was_launched():
        return run
    from tunesmith.publish.causes import cause_of
    from tunesmith.publish.hub import check_rights
    from tunesmith.publish.patience import QUESTION_S, within
    from tunesmith.publish.remote import find

    repo_id, cause = hub.repo_id, None
    with placed(loaded.provenance), libraries_logged():
        try:
            if not dry_run:
                cause = within(QUESTION_S, lambda: check_rights(repo_id, public=hub.public))
            found = None
            if cause is None and hub.every == "save" and (run is None or run.newest_checkpoint() is None):
                found, cause = within(QUESTION_S, lambda: find(repo_id))
        except TimeoutError as error:
            found, cause = None, cause_of(error, repo_id)
        if cause is not None:
            out.say(f"note: {cause.said}; training begins, and the Hub is asked again later", style="yellow")
            return run
        return run if found is None else _taken_from(out, found, loaded, terms, path, dry_run)


def _taken_from(
    out: Output, found: FoundRun, loaded: LoadedConfig, terms: Terms, path: Path, dry_run: bool
) -> RunFolder | None:
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
        return None
    out.say(f"{said}: fetching it to {path}")
    with held(path):
        return fetch(found, run)


def _ago(found: FoundRun) -> str:
    try:
        written = datetime.fromisoformat(str(found.record.get("updated_at")))
        return f", written {duration_text((datetime.now(UTC) - written).total_seconds())} ago"
    except (ValueError, TypeError):
        return ""
