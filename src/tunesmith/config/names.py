"""Names that people give, of runs, adapters and repositories: none leads out of the folder it is for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

from tunesmith.errors import ConfigError

ALLOWED_NAME = (
    "1 to 96 letters (A-Z, a-z), digits, '-', '_' and '.', neither '-' nor '.' first, no '.' last, no two "
    "dots in a row"
)
ALLOWED_REPO_ID = (
    "OWNER/NAME, each of letters (A-Z, a-z), digits, '-', '_' and '.', neither '-' nor '.' first or last, "
    "no '--' or '..', at most 96 characters, not ending in .git"
)
_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?", re.DOTALL)
# Windows opens the device whatever the case and the ending: nul, NUL.txt, Com1.safetensors (Microsoft,
# "Naming Files, Paths, and Namespaces", 2024).
_RESERVED = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|clock\$|(?:com|lpt)[0-9¹²³])", re.IGNORECASE)


def checked_name(name: str, what: str = "a name") -> str:
    """The name itself, when it is one plain folder's name on every system.

    Raises:
        ConfigError: it holds separators, dots that lead upwards, control characters or a reserved name.
    """
    problem = None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problem = "it has other characters or another length than names may have"
    elif _is_reserved(name):
        problem = "Windows keeps that name for a device"
    if problem:
        raise ConfigError(f"{_shown(name)} can't be {what}: {problem}", where=what, fix=f"use {ALLOWED_NAME}")
    return name


def checked_run_name(name: str) -> str:
    """The name itself, when a run under runs/ may have it.

    Raises:
        ConfigError: as `checked_name`.
    """
    return checked_name(name, "a run's name")


def checked_repo_id(repo_id: str) -> str:
    """The id itself, when the Hub and every file system take it: `OWNER/NAME`, or `NAME` alone.

    Raises:
        ConfigError: huggingface_hub refuses it, or a part of it is reserved on Windows.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    problem = None
    try:
        if not isinstance(repo_id, str):
            raise HFValidationError("not text")
        validate_repo_id(repo_id)
        if any(map(_is_reserved, repo_id.split("/"))):
            problem = "Windows keeps a part of it for a device"
    except HFValidationError:  # its message repeats the id as it stands, control characters and all
        problem = "it has another form than the Hub's ids"
    if problem:
        raise ConfigError(
            f"{_shown(repo_id)} can't be a repository's id: {problem}",
            where="repository id",
            fix=f"use {ALLOWED_REPO_ID}",
        )
    return repo_id


def checked_path(path: str) -> str:
    """The path itself, absolute or not, when a file system takes each part of it for a plain name.

    Raises:
        ConfigError: it holds control or direction characters, or a part that Windows keeps for a device.
    """
    problem = None
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in path):
        problem = "it holds control or direction characters"
    elif any(map(_is_reserved, re.split(r"[/\\]", path))):
        problem = "Windows keeps a part of it for a device"
    if problem:
        raise ConfigError(
            f"{_shown(path)} can't be a path: {problem}", where="path", fix="use a path of plain names"
        )
    return path


def fits(check: Callable[[str], str], value: str | None) -> str | None:
    """`value`, when it is None or `check` takes it: for pydantic, which has one sentence for an error.

    Raises:
        ValueError: `check` refuses it; message and advice in one.
    """
    if value is None:
        return None
    try:
        return check(value)
    except ConfigError as error:
        raise ValueError(f"{error.message}; {error.fix}") from None


def inside(root: Path, path: str | Path) -> Path:
    """`root / path`, when that stays under `root`, links followed.

    Raises:
        ConfigError: the path is absolute, names a drive or a network share, goes upwards, holds control or
            direction characters or a reserved name, or a link on its way leads out.
    """
    text = str(path)
    problem = None
    windows = PureWindowsPath(text)
    if not text.isprintable() or any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in text):
        problem = "it holds control or direction characters"
    elif not text.strip(" ./\\") or text.startswith("~"):
        problem = "it names no file there"
    elif Path(text).is_absolute() or windows.drive or windows.root or "\\" in text or ":" in text:
        problem = "it is absolute, names a drive or share, or has other separators than /"
    elif any(part == ".." or part != part.rstrip(" .") or _is_reserved(part) for part in text.split("/")):
        problem = "a part of it goes upwards, ends in a dot or space, or is reserved on Windows"
    elif any(len(part.encode()) > 255 for part in text.split("/")) or len(text) > 1024:
        problem = "it is too long"
    elif not (root / text).resolve().is_relative_to(root.resolve()):
        problem = "a link on its way leads out"
    if problem:
        raise ConfigError(
            f"{_shown(text)} can't be a path in {root}: {problem}",
            where=str(root),
            fix="use a relative path of plain names with / between them, that stays in the folder",
        )
    return root / text


def _is_reserved(name: str) -> bool:
    return _RESERVED.fullmatch(name.partition(".")[0].strip()) is not None


def _shown(name: object) -> str:
    """The name as ASCII, so that it can't turn the text around it or move a terminal's cursor."""
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-10:]}"
