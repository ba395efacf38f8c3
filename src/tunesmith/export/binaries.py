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

VERSION = "3.21.1"
# The release of ggml-org/llama.cpp that this version was built from (bins/*/_nlcBuildMetadata.json): the
# newest version that there is for all six kinds of machine.
LLAMA_CPP = "v0.4.0"
SUFFIXES = (".so", ".dylib", ".dll")
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
        "Totj6RTDMGo3FoK2yNUaz/oGmZD0olAqTrRluFUWmu0kW2i9TOzHSW0OWCAiGkzRCVX0WsU2CyUQo/W2NYtdPA==",
    ),
    ("linux", "aarch64"): _Build(
        "linux-arm64",
        "eI3anSEGzJiwF2rpMpZVTdHzw47LztbvfvuRzlu/fPO18ROnBOd+75RPUBlV6qENPpmNtbov85+3VODwEwBurg==",
    ),
    ("darwin", "arm64"): _Build(
        "mac-arm64-metal",
        "6MIDAZV7DXD9R1+jEXWJkFuolni3GATGE6mmuyFYc6ZmtOh9djAy15df0T0AXK3sCmVKL+fQcOAWZezxx4MvQQ==",
    ),
    ("darwin", "x86_64"): _Build(
        "mac-x64",
        "Q4nyNmbcNiKygBZQZjX+qLk2w3YzoiFpLWsxNURQN7xjyUi2p2rWxjRa7Otg0FrjGf/ri4aQ+X3Uj5Y0zD06eg==",
    ),
    ("win32", "amd64"): _Build(
        "win-x64",
        "JcIpCnra7bAd7JNWA8ehdn2DIRaTMuj+fBC8bw+5rKSNzszWFbuj2XA05c5QHovonDMBLN1ePXE/hcfZtzXoUQ==",
    ),
    ("win32", "arm64"): _Build(
        "win-arm64",
        "/UDR7Y0B8iKfc/tqxBmWkcgRdZQ9Wrkwod7fYl4J6iZXcTIj286RkHvZSED7VMY67TrcUXVvxJVMNFtmjeYnDg==",
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
            fix="take --format merged, or --quantize F16 --no-verify, which need none of it",
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
                if name.endswith(SUFFIXES) and entry.isfile() and (source := archive.extractfile(entry)):
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
