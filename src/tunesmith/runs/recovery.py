"""A run that ended somewhere, brought to a state that it can go on from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import RunFolderError
from tunesmith.runs import checkpoints
from tunesmith.runs.files import write_bytes_whole
from tunesmith.runs.folder import RunFolder


@dataclass(frozen=True)
class Recovered:
    """Where a run goes on: a checkpoint, or the beginning (None, step 0); and what was found on the way."""

    checkpoint: Path | None
    step: int
    notices: tuple[str, ...]


def recover(run: RunFolder) -> Recovered:
    """Find the newest whole checkpoint of `run`; what came after it is set aside or removed.

    Checkpoints that were altered are set aside by name. Figures of steps that will be done again are removed,
    so that each step stands in metrics.jsonl once.

    Raises:
        RunFolderError: there are checkpoints, and none is whole.
    """
    num_unfinished = checkpoints.sweep(run.checkpoints_path)
    found, aside = checkpoints.newest_whole(run.checkpoints_path)
    notices = [
        f"checkpoint-{each.step} isn't whole ({each.fault}): set aside as {each.path.name}" for each in aside
    ]
    if num_unfinished:
        notices.append("a checkpoint that was being written when the run ended is left out")
    if found is None and aside:
        raise RunFolderError(
            "no checkpoint of this run is whole: " + "; ".join(notices),
            where=str(run.checkpoints_path),
            fix="put a copy back under its old name, or begin anew with another --run-dir",
        )
    step = found.step if found else 0
    for name in ("metrics.jsonl", "completions.jsonl"):
        _forget_after(run.path / name, step)
    return Recovered(found.path if found else None, step, tuple(notices))


def _forget_after(path: Path, step: int) -> None:
    """Remove the rows of later steps, and torn ones."""
    if not path.is_file():
        return
    before = path.read_bytes()
    after = b"".join(line for line in before.splitlines(keepends=True) if _stands(line, step))
    if after != before:
        write_bytes_whole(path, after)


def _stands(line: bytes, step: int) -> bool:
    try:
        return line.endswith(b"\n") and int(json.loads(line)["step"]) <= step
    except (ValueError, LookupError, TypeError):
        return False
