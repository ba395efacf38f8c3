"""Which bytes of a weights file may hold text, and which are numbers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

# safetensors refuses longer headers (safetensors 0.8, MAX_HEADER_SIZE).
MAX_HEADER = 100_000_000
# So much of a weights file is read as text in any case: all that stands before a GGUF's tensors (keys and a
# vocabulary, 30 MiB at most in the models of 2026) and small files as a whole.
TEXT_SIZE = 64 << 20
_BYTES = {"U8", "I8", "BOOL"}  # how one keeps bytes, or a pickle, in a safetensors file


def safetensors_header(stream: BinaryIO) -> tuple[dict[str, Any], int] | None:
    """The header of a safetensors file and where its tensors begin, or None where it isn't one."""
    stream.seek(0)
    first = stream.read(8)
    size = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if not 2 <= size <= MAX_HEADER:
        return None
    try:
        header = json.loads(stream.read(size))
    except (ValueError, RecursionError):
        return None
    return (header, 8 + size) if isinstance(header, dict) else None


def is_gguf(stream: BinaryIO) -> bool:
    """Whether a stream begins as GGUF files do."""
    stream.seek(0)
    return stream.read(4) == b"GGUF"


def number_regions(stream: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of the regions of a weights file that hold numbers only, in order; the rest is text."""
    if size <= TEXT_SIZE:
        return
    if is_gguf(stream):
        yield TEXT_SIZE, size
        return
    found = safetensors_header(stream)
    if found is None:
        return
    header, begin = found
    done = max(begin, TEXT_SIZE)
    for start, end in sorted(_float_tensors(header)):
        start, end = max(done, begin + start), min(size, begin + end)
        if start < end:
            yield start, end
            done = end


def _float_tensors(header: dict[str, Any]) -> Iterator[tuple[int, int]]:
    for name, tensor in header.items():
        if name == "__metadata__" or not isinstance(tensor, dict) or tensor.get("dtype") in _BYTES:
            continue
        offsets = tensor.get("data_offsets")
        if isinstance(offsets, list) and len(offsets) == 2 and all(type(each) is int for each in offsets):
            yield offsets[0], offsets[1]
