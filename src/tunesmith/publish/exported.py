"""What was exported of a run, as files that go to the Hub beside the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import UnverifiedError
from tunesmith.publish.staging import put_aside, put_aside_file
from tunesmith.runs.fingerprint import model_fingerprint
from tunesmith.runs.folder import RunFolder

MODELFILE = "Modelfile"
# The adapter is the run's own model, which is sent in any case.
_NOT_SENT = ("adapter",)


@dataclass(frozen=True)
class Exported:
    """A file or folder that was exported, and what run.json says of it."""

    path: Path
    entry: dict[str, Any]


def exported_files(run: RunFolder, *, force: bool) -> list[Exported]:
    """What is there of the run's exports; `force` takes what wasn't shown to answer like the model as well.

    Raises:
        UnverifiedError: a file was found wrong, wasn't compared, or was altered since.
    """
    record = run.record.get("export") or {}
    folder = Path(record.get("path") or run.path / "export")
    entries = [each for each in record.get("files") or [] if each.get("format") not in _NOT_SENT]
    found = [Exported(folder / each["name"], each) for each in entries if (folder / each["name"]).exists()]
    for each in found if not force else ():
        _refuse_unverified(each, run)
    return found


def stage_exported(exported: Sequence[Exported], stage: Path) -> None:
    """Put files aside under their names, with the Modelfile where it says how to run one of them."""
    for each in exported:
        if each.path.is_dir():
            put_aside(each.path, stage / each.path.name)
        else:
            put_aside_file(each.path, stage)
    folders = {each.path.parent for each in exported}
    for folder in folders:
        text = (folder / MODELFILE).read_text("utf-8") if (folder / MODELFILE).is_file() else ""
        if any(f"FROM ./{each.path.name}\n" in text for each in exported):
            put_aside_file(folder / MODELFILE, stage)


def _refuse_unverified(each: Exported, run: RunFolder) -> None:
    name, verified = each.path.name, each.entry.get("verified")
    if verified is True and model_fingerprint(str(each.path)) == each.entry.get("fingerprint"):
        return
    why = "was never compared with the trained model"
    if verified is not None:
        why = "was found not to answer like the trained model"
    if verified:
        why = "was changed since it was compared with the trained model"
    raise UnverifiedError(
        f"{name} {why}",
        where=str(each.path),
        fix=f"export it again (tunesmith export {run.path}), remove it, or publish it all the same: --force",
    )
