"""A run of the Hub brought into its folder here, to go on from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import DownloadError, RunFolderError
from tunesmith.publish.causes import cause_of
from tunesmith.publish.patience import upload_limit_s, within
from tunesmith.publish.redaction import restored
from tunesmith.publish.remote import FoundRun, download
from tunesmith.publish.staging import RUN_FILES
from tunesmith.runs.checkpoints import newest_whole, numbered
from tunesmith.runs.files import write_json_whole
from tunesmith.runs.folder import FETCHING, RunFolder

# The size of what is fetched isn't asked for: a model of some tens of GB.
_LIMIT_S = upload_limit_s(50 << 30)


def as_here(found: FoundRun, path: Path, config: Mapping[str, Any]) -> RunFolder:
    """The run as it would stand in the folder `path`, where nothing is written.

    The paths that were taken out of its record are those of `config`, where they can be.
    """
    record = found.record | {
        "name": path.name,
        "status": "stopped",
        "config": restored(found.record.get("config"), config),
        "fetched": {"repo_id": found.repo_id, "step": found.step, "sent_by": found.record.get("sent_by")},
    }
    if record.get("base"):
        record["base"] = restored(record["base"], {"model": config.get("model")})
    return RunFolder(path, record)


def fetch(found: FoundRun, run: RunFolder) -> RunFolder:
    """Bring the run into its folder, which this process holds, and give it back.

    The checkpoints come last: a fetch that is killed leaves a run without any, and is done again.

    Raises:
        DownloadError: the Hub doesn't give it.
        RunFolderError: what the Hub gives isn't whole.
    """
    aside = run.path / FETCHING
    shutil.rmtree(aside, ignore_errors=True)
    try:
        within(_LIMIT_S, lambda: download(found, aside))
        newest, damaged = newest_whole(aside)
        if newest is None and damaged:
            raise RunFolderError(
                f"no checkpoint of this run on the Hub is whole: {damaged[0].fault}",
                where=found.repo_id,
                fix="choose another hub.repo_id to begin anew",
            )
        write_json_whole(run.path / "run.json", run.record)
        for name in RUN_FILES[1:]:
            if (aside / name).is_file():
                (aside / name).replace(run.path / name)
        run.checkpoints_path.mkdir(exist_ok=True)
        for each in reversed(numbered(aside)):  # an older one alone would be gone on from
            target = run.checkpoints_path / each.path.name
            shutil.rmtree(target, ignore_errors=True)
            each.path.rename(target)
    except Exception as error:  # the Hub's, httpx's and the network's are many (test_remote.py)
        cause = None if isinstance(error, RunFolderError) else cause_of(error, found.repo_id)
        if cause is None:
            raise
        raise DownloadError(
            f"the run in {found.repo_id} can't be fetched: {cause.said}",
            where=found.repo_id,
            fix=cause.fix or "give the same command again",
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return RunFolder.open(run.path)
