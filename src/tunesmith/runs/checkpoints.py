"""Checkpoints on disk: there whole or not at all, told by a manifest with the size and hash of each file.

A checkpoint is written into a hidden folder, made to last (fsync), and renamed. What was altered afterwards
is set aside under another name, never removed and never loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.runs.files import sync_folder, write_json_whole

MANIFEST = "manifest.json"
SCHEMA = "tunesmith-checkpoint/1"
# The newest and the one before it: when the newest is altered there is one to fall back to.
LEAST_KEPT = 2
_NAME = re.compile(r"checkpoint-(\d+)")
_UNFINISHED, _REMOVED = ".unfinished-", ".removed-"


@dataclass(frozen=True)
class Checkpoint:
    """A folder that bears a checkpoint's name, and its step."""

    path: Path
    step: int


@dataclass(frozen=True)
class Quarantined:
    """A checkpoint that isn't whole, where it lies now, and what is wrong with it."""

    path: Path
    step: int
    fault: str


def begin(folder: Path, step: int) -> Path:
    """A new hidden folder in which a checkpoint of `step` is to be written."""
    temporary = folder / f"{_UNFINISHED}{step}-{secrets.token_hex(4)}"
    temporary.mkdir(parents=True)
    return temporary


def commit(temporary: Path, step: int) -> Path:
    """Give what stands in `temporary` its manifest and its name: from then on the checkpoint is there."""
    files = {}
    for path in _files(temporary):
        files[path.relative_to(temporary).as_posix()] = entry_of(path)
    for each in {path.parent for path in _files(temporary)}:
        sync_folder(each)
    write_json_whole(temporary / MANIFEST, {"schema": SCHEMA, "step": step, "files": files})
    final = temporary.parent / f"checkpoint-{step}"
    temporary.rename(final)
    sync_folder(final.parent)
    return final


def entry_of(path: Path) -> dict[str, Any]:
    """What a manifest tells of a file, which is made to last."""
    with path.open("rb+") as file:  # Windows makes nothing last that is open for reading alone
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}


def numbered(folder: Path) -> list[Checkpoint]:
    """The folders that bear a checkpoint's name, by their steps."""
    found = [
        Checkpoint(each, int(match.group(1)))
        for each in folder.glob("checkpoint-*")
        if (match := _NAME.fullmatch(each.name)) and each.is_dir()
    ]
    return sorted(found, key=lambda each: each.step)


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files have the sizes that its manifest tells; their content isn't read."""
    return next((each for each in reversed(numbered(folder)) if fault_of(each, deep=False) is None), None)


def newest_unaltered(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is what was written, byte by byte; nothing is set aside."""
    return next((each for each in reversed(numbered(folder)) if fault_of(each) is None), None)


def best_step(checkpoint: Path) -> int | None:
    """The step of the run's best checkpoint, as this one tells it."""
    try:
        told = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        return None if told["best_global_step"] is None else int(told["best_global_step"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def newest_whole(folder: Path) -> tuple[Checkpoint | None, list[Quarantined]]:
    """The newest checkpoint that is what was written, byte by byte; newer ones that aren't are set aside."""
    aside: list[Quarantined] = []
    for each in reversed(numbered(folder)):
        fault = fault_of(each)
        if fault is None:
            return each, aside
        aside.append(Quarantined(_set_aside(each.path), each.step, fault))
    return None, aside


def fault_of(checkpoint: Checkpoint, *, deep: bool = True) -> str | None:
    """What of a checkpoint isn't as it was written, or None; not `deep` looks at names and sizes only."""
    try:
        manifest = json.loads((checkpoint.path / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        if manifest["schema"] != SCHEMA or manifest["step"] != checkpoint.step:
            return f"{MANIFEST} is of another checkpoint"
        faults = (_fault(checkpoint.path, name, told, deep) for name, told in files.items())
        return next((fault for fault in faults if fault), None)
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except OSError as error:
        return f"{MANIFEST} can't be read: {error.strerror}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"


def rotate(folder: Path, limit: int, protected: Collection[int]) -> list[int]:
    """Remove the oldest checkpoints over `limit`, and give their steps back.

    Never one of the newest two, nor a step of `protected`; those count among the kept, and may be more.
    """
    all_of_them = numbered(folder)
    safe = {each.step for each in all_of_them[-LEAST_KEPT:]} | set(protected)
    num_over = max(0, len(all_of_them) - max(limit, LEAST_KEPT))
    over = [each for each in all_of_them if each.step not in safe][:num_over]
    for each in over:
        remove(each.path)
    return [each.step for each in over]


def remove(path: Path) -> None:
    """Remove a checkpoint; killed in the middle, it leaves nothing that bears a checkpoint's name."""
    hidden = path.with_name(f"{_REMOVED}{path.name}-{secrets.token_hex(4)}")
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def sweep(folder: Path) -> int:
    """Remove what saves and removals that were killed left behind; the number of unfinished checkpoints."""
    unfinished = list(folder.glob(f"{_UNFINISHED}*"))
    for each in [*unfinished, *folder.glob(f"{_REMOVED}*")]:
        shutil.rmtree(each, ignore_errors=True)
    return len(unfinished)


def _fault(path: Path, name: str, told: Any, deep: bool) -> str | None:
    file = path / name
    if not file.is_file():
        return f"{name} is missing"
    if file.stat().st_size != told["size"]:
        return f"{name} has {file.stat().st_size:,} bytes of {told['size']:,}"
    if not deep:
        return None
    with file.open("rb") as opened:
        same = hashlib.file_digest(opened, "sha256").hexdigest() == told["sha256"]
    return None if same else f"{name} was altered: its hash isn't the manifest's"


def _set_aside(path: Path) -> Path:
    aside, number = path.with_name(f"quarantined-{path.name}"), 2
    while aside.exists():
        aside, number = path.with_name(f"quarantined-{path.name}-{number}"), number + 1
    return path.rename(aside)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
