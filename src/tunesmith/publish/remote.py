"""A run's newest checkpoints on the branch `checkpoints` of its repository, for others to go on from.

Each commit makes the branch hold a run whole: its record, its figures, the newest checkpoint, the one before
it and the best. Who writes there is told by `sent_by` in the record: a process that finds another's name
there, after its own, has been replaced and leaves the branch alone.
"""

from __future__ import annotations

import json
import re
import secrets
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.config.names import inside
from tunesmith.errors import HubError
from tunesmith.publish.allowed import is_allowed
from tunesmith.publish.causes import Cause, cause_of
from tunesmith.publish.hub import Held, commit, held
from tunesmith.publish.outbound import refuse_secrets
from tunesmith.publish.staging import RUN_FILES, clean_checkpoint, clean_run
from tunesmith.runs.checkpoints import LEAST_KEPT
from tunesmith.runs.folder import RUN_SCHEMA, RunFolder

BRANCH = "checkpoints"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)/[^\0]+")


@dataclass(frozen=True)
class Sender:
    """Who sends a run: its id, and a name for the process. `was_here` once the branch bears that name."""

    run_id: str
    process: str
    was_here: bool = False

    @classmethod
    def of(cls, run: RunFolder) -> Sender:
        """This process, as the sender of a run that it goes on with."""
        return cls(str(run.record.get("id")), secrets.token_hex(8))


@dataclass(frozen=True)
class FoundRun:
    """A run on the Hub: its commit, its redacted record, and the step of its newest checkpoint."""

    repo_id: str
    commit: str
    record: dict[str, Any]
    step: int | None
    files: Collection[str]


def send(stage: Path, repo_id: str, step: int, best: int | None, sender: Sender) -> bool:
    """Put what was put aside in `stage` on the branch: a run's files and checkpoints, the newest of `step`.

    The files there are cleaned for it. False comes back where the branch held all of it.

    Raises:
        HubError: the branch holds another run, or another process goes on with this one.
        SecretError: something in the files is a secret.
        Exception: the Hub's and the network's own, as `hub.commit` raises them.
    """
    clean_run(stage, sent_by=sender.process, pending=[])
    for folder in stage.glob("checkpoint-*"):
        clean_checkpoint(folder)
    leaving = refuse_secrets(stage, more=RUN_FILES).files
    files = {path.relative_to(stage).as_posix(): path for path in leaving}

    def check(before: Held) -> None:
        refuse_others(repo_id, _record_of(repo_id, before), sender, _newest(before.files), step)

    return commit(
        repo_id,
        BRANCH,
        files,
        lambda there: outdated([*there, *files], step, best),
        f"Checkpoint of step {step}",
        check,
    )


def outdated(names: Collection[str], step: int, best: int | None) -> set[str]:
    """The files of checkpoints that the branch need not hold when its newest is that of `step`.

    That are those of later steps too: they belong to an end of the run that didn't last.
    """
    steps = {name: int(match[1]) for name in names if (match := _CHECKPOINT.fullmatch(name))}
    earlier = sorted({each for each in steps.values() if each <= step})
    kept = {*earlier[-LEAST_KEPT:], best}
    return {name for name, each in steps.items() if each not in kept}


def refuse_others(
    repo_id: str, record: dict[str, Any] | None, sender: Sender, there: int | None, step: int
) -> None:
    """Make sure that a checkpoint of `step` may go to the branch, whose newest is that of the step `there`.

    A process that went on from an earlier step than lies there would have later ones removed.

    Raises:
        HubError: it holds another run, or another process went on with this one.
    """
    if record is None:
        return
    if record.get("id") != sender.run_id:
        raise other_run(repo_id, record)
    is_known = record.get("sent_by") == sender.process
    if there is not None and there > step and not sender.was_here and not is_known:
        raise HubError(
            f"{repo_id} holds this run up to step {there}: step {step} isn't sent",
            where=repo_id,
            fix="stop this run and give its command again: it goes on from there",
        )
    if sender.was_here and record.get("sent_by") != sender.process:
        raise HubError(
            f"another machine goes on with this run from {repo_id}: nothing more is sent from here",
            where=repo_id,
            fix="end one of the two",
        )


def other_run(repo_id: str, record: dict[str, Any]) -> HubError:
    """The sentence for a branch that another run's checkpoints lie on."""
    return HubError(
        f"the branch {BRANCH} of {repo_id} holds another run, {record.get('name')}",
        where=repo_id,
        fix=f"choose another hub.repo_id, or delete the branch {BRANCH} there",
    )


def find(repo_id: str) -> tuple[FoundRun | None, Cause | None]:
    """The run that the branch holds, if any; and why that can't be told, where the Hub didn't answer."""
    from huggingface_hub import HfApi

    try:
        there = held(HfApi(), repo_id, BRANCH)
        record = None if there is None else _record_of(repo_id, there)
    except Exception as error:  # the Hub's, httpx's and the network's are many (test_remote.py)
        cause = cause_of(error, repo_id)
        if cause is None:
            raise
        return None, cause
    if there is None or record is None:
        return None, None
    return FoundRun(repo_id, there.commit, record, _newest(there.files), there.files.keys()), None


def download(found: FoundRun, folder: Path) -> None:
    """Fetch the run into `folder`: only files that Tunesmith sends, each by its own name inside.

    Raises:
        Exception: the Hub's and the network's own.
    """
    from huggingface_hub import HfApi

    for name in sorted(found.files):
        wanted = name in RUN_FILES or (_CHECKPOINT.fullmatch(name) and is_allowed(name.rpartition("/")[2]))
        if wanted:
            inside(folder, name)
            HfApi().hf_hub_download(found.repo_id, name, revision=found.commit, local_dir=folder)


def _newest(names: Collection[str]) -> int | None:
    """The step of the newest checkpoint among files."""
    return max((int(match[1]) for name in names if (match := _CHECKPOINT.fullmatch(name))), default=None)


def _record_of(repo_id: str, there: Held) -> dict[str, Any] | None:
    """The record on the branch; None where there is none that is a run's."""
    from huggingface_hub import HfApi

    if "run.json" not in there.files:
        return None
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        path = HfApi().hf_hub_download(repo_id, "run.json", revision=there.commit, local_dir=folder)
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            return None
    return record if isinstance(record, dict) and record.get("schema") == RUN_SCHEMA else None
