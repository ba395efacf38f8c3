"""What is to be sent, put aside: nothing that happens to the run meanwhile changes it or takes it away."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tunesmith.errors import HubError
from tunesmith.publish.allowed import is_allowed, outgoing
from tunesmith.publish.redaction import last_part, redacted
from tunesmith.runs.checkpoints import MANIFEST, entry_of
from tunesmith.runs.files import write_json_whole

# Hidden, and in the run's folder: hard links need the same disk.
STAGE = ".outgoing"
# What a run goes on with beside its checkpoints. run.json leaves redacted.
RUN_FILES = ("run.json", "metrics.jsonl", "completions.jsonl")
# The keys of transformers', peft's and tokenizers' JSON files that hold a path of this machine.
_PATH_KEYS = {"base_model_name_or_path", "_name_or_path", "name_or_path", "best_model_checkpoint"}
_WITH_PATHS = (
    "adapter_config.json", "config.json", "tokenizer_config.json", "generation_config.json",
    "trainer_state.json",
)  # fmt: skip
# peft's model card is a form with empty fields, and names this machine's paths.
_FORM = "README.md"


def put_aside(source: Path, target: Path) -> None:
    """Hard links of a folder's files in `target`, which is made; copies where the disk has no such links."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif path.is_file():
            put_aside_file(path, place.parent)


def put_aside_file(path: Path, folder: Path) -> None:
    """The same for one file, into a folder that is made."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, folder / path.name)
    except OSError:
        shutil.copy2(path, folder / path.name)


def put_run_aside(run_path: Path, target: Path) -> None:
    """Copies of what a run goes on with, as it is now: these files grow."""
    target.mkdir(parents=True, exist_ok=True)
    for name in RUN_FILES:
        if (run_path / name).is_file():
            shutil.copyfile(run_path / name, target / name)


def clean_run(stage: Path, **changes: Any) -> None:
    """Make the record that was put aside fit to leave, with `changes` of its keys.

    Raises:
        SecretError: it can't be cleaned.
    """
    path = stage / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    write_json_whole(path, redacted(record) | changes)


def clean_checkpoint(folder: Path) -> None:
    """Take out of a checkpoint that was put aside what may not leave; its manifest tells what stays."""
    kept = clean_model(folder)
    path = folder / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name in list(manifest["files"]):
        if name not in kept:
            del manifest["files"][name]
        elif Path(name).name in _WITH_PATHS:
            manifest["files"][name] = entry_of(folder / name)
    write_json_whole(path, manifest)


def clean_model(folder: Path) -> Collection[str]:
    """Take out of a model that was put aside what may not leave; the names of what stays come back.

    Raises:
        HubError: a file that the model needs isn't what its name says: without it the rest is of no use.
    """
    (folder / _FORM).unlink(missing_ok=True)
    for path, reason in outgoing(folder).left_out.items():
        if is_allowed(path.name):
            raise HubError(f"nothing is sent: {path} is {reason}", where=str(path), fix="look at that file")
        target = folder / path
        shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink()
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        if path.name in _WITH_PATHS:
            document = json.loads(path.read_text(encoding="utf-8"))
            if (clean := _without_paths(document)) != document:
                # Replaced, never written into: it is a link to the run's own file.
                write_json_whole(path, clean)
    return {path.relative_to(folder).as_posix() for path in files}


def _without_paths(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _without_paths(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    return last_part(value) if isinstance(value, str) and key in _PATH_KEYS else value
