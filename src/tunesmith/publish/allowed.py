"""The files that may leave this machine, by an allow-list: what isn't named here stays home."""

from __future__ import annotations

import os
import pickletools
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from tunesmith.publish.containers import PICTURE, container_of
from tunesmith.publish.pixels import pixels_of
from tunesmith.publish.tensor_files import is_gguf, safetensors_header

# What transformers 5, peft 0.21 and sentence-piece tokenizers write for those who load a model, llama.cpp's
# and Ollama's files, and what a run says of its training. run.json isn't among them: it names this machine,
# and goes only through `publish.redaction`.
_NAMES = re.compile(
    r"README\.md|(?:LICEN[CS]E|NOTICE|COPYING|USE_POLICY)(?:\.md|\.txt)?|Modelfile"
    r"|(?:config|generation_config|adapter_config|quantize_config|quantization_config)\.json"
    r"|(?:tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|tekken)\.json|merges\.txt|vocab\.txt"
    r"|(?:tokenizer|spiece|sentencepiece\.bpe)\.model|[A-Za-z0-9_-]{1,40}\.tiktoken"
    r"|(?:chat_template|[A-Za-z0-9_-]{1,60})\.jinja|chat_template\.json"
    r"|(?:processor_config|preprocessor_config|video_preprocessor_config|image_processor_config)\.json"
    r"|(?:trainer_state|manifest|state|scheduler|rng_state(?:_\d+)?)\.json|metrics\.jsonl|verification\.json"
    r"|[^/\\\x00-\x1f]{1,200}\.(?:safetensors|safetensors\.index\.json|gguf)"
)
# The one picture: the curve of a run, which its card shows. Right in the folder, and pixels alone.
CURVE = "loss.png"
# A pickle by name, whatever is in it; named apart so that the reason can be told.
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz", ".msgpack"}
_TEXT_CHECKED = 1 << 20


class Outgoing:
    """`files` may leave, in order of their names; `left_out` stay home: each path in the folder, and why."""

    def __init__(self, files: list[Path], left_out: dict[Path, str]) -> None:
        self.files = files
        self.left_out = left_out


def outgoing(folder: Path, more: Collection[str] = ()) -> Outgoing:
    """The files under a folder that may leave this machine, and those that stay with the reason for each.

    `more` are names of files right in the folder that may leave as well.
    """
    root = folder.resolve()
    kept: list[Path] = []
    left_out: dict[Path, str] = {}
    for parent, folders, names in os.walk(folder):
        for name in list(folders):
            path = Path(parent, name)
            if name.startswith(".") or path.is_symlink():
                folders.remove(name)
                left_out[path.relative_to(folder)] = "a link" if path.is_symlink() else "hidden"
        for name in names:
            path = Path(parent, name)
            named = (*more, CURVE) if Path(parent) == folder else ()
            reason = _reason_to_stay(path, root, is_named=name in named)
            if reason is None:
                kept.append(path)
            else:
                left_out[path.relative_to(folder)] = reason
    return Outgoing(sorted(kept), dict(sorted(left_out.items())))


def is_allowed(name: str) -> bool:
    """Whether files of this name may leave, or be fetched, whatever is in them."""
    return _NAMES.fullmatch(name) is not None


def _reason_to_stay(path: Path, root: Path, is_named: bool) -> str | None:
    if path.name.startswith("."):
        return "hidden"
    if path.suffix.lower() in _PICKLES:
        return "a pickle or may be one: loading it runs code"
    if not is_named and not is_allowed(path.name):
        return "not among the files that are published"
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        return "a link that leads out of the folder"
    try:
        # Neither a device nor a pipe, which would be waited for.
        return _reason_in_content(path) if stat.S_ISREG(path.stat().st_mode) else "not a regular file"
    except OSError as error:
        return f"unreadable: {error.strerror or error}"


def _reason_in_content(path: Path) -> str | None:
    """Why the content isn't what the name says, or None."""
    with path.open("rb") as stream:
        if path.suffix == ".safetensors":
            return None if safetensors_header(stream) else "no safetensors file, whatever its name"
        if path.suffix == ".gguf":
            return None if is_gguf(stream) else "no GGUF file, whatever its name"
        container = container_of(stream)
        if path.name == CURVE:
            return None if container and container.kind == PICTURE else _reason_against(stream)
        if container is not None and container.is_certain:
            return f"a {container.kind}, whatever its name"
        head = stream.read(_TEXT_CHECKED)
    if _is_pickle(head):
        return "a pickle, whatever its name"
    if path.suffix != ".model" and b"\0" in head:  # sentencepiece's are protocol buffers
        return "no text, whatever its name"
    return None


def _reason_against(stream: BinaryIO) -> str:
    """Why something isn't a picture of pixels alone."""
    try:
        pixels_of(stream)
    except ValueError as error:
        return f"no plain picture: {error}"
    return "no plain picture: it is an archive too"


def _is_pickle(head: bytes) -> bool:
    """Whether the bytes are a pickle's operations, up to its end or to the end of what was read of it."""
    if re.match(rb"\x80[\2-\x0f]", head):
        return True
    number = 0  # protocols 0 and 1 have no first bytes of their own; text stops making sense within a few
    try:
        for number, (operation, _, _) in enumerate(pickletools.genops(head), 1):
            if operation.name == "STOP":
                return number > 1
    except Exception:  # pickletools raises ValueError, and whatever its readers of arguments do
        return len(head) == _TEXT_CHECKED and number > 100
    return False
