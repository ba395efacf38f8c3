"""Whether a GGUF file's header can be true, before a library opens it.

gguf 0.19.0 believes what a file says of itself: 49 bytes that promise an array of 2^63 items keep it busy,
and its memory growing, for ever (https://github.com/ggml-org/llama.cpp/pull/27188). The format is told in
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (read on 2026-11-26).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from tunesmith.errors import ModelError

_VERSIONS = (2, 3)
# By value type: bytes of UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, UINT64, INT64, FLOAT64.
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9
# A block's items and bytes by tensor type (gguf 0.19.0, constants.py, GGML_QUANT_SIZES).
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip
# Gemma 3's file, with a vocabulary of 262,144 and its merges, has 1.3 million items in 40 keys.
_MOST_KEYS, _MOST_TENSORS, _MOST_ITEMS = 10_000, 100_000, 2_500_000
_MOST_KEY_BYTES, _MOST_TEXT_BYTES = 65_535, 64 << 20
_MOST_DIMENSIONS = 4


def check_gguf(path: str | Path) -> None:
    """Make sure that the counts, lengths and places that a GGUF file states lie within the file.

    Reads the header alone, a piece at a time, in at most a second or two.

    Raises:
        ModelError: the file is no GGUF, or says of itself what can't be.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            _Header(file, path).check()
    except OSError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} can't be read: {error.strerror or error}", where=str(path)) from error


class _Header:
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._size = path.stat().st_size
        self._at = 0
        self._items_left = _MOST_ITEMS
        self._alignment = 32

    def check(self) -> None:
        if self._read(4, "magic") != b"GGUF":
            raise self._refused("it doesn't begin with GGUF")
        version = self._number(4, "version")
        if version not in _VERSIONS:
            raise self._refused(f"it is of version {version}, and versions 2 and 3 are read")
        num_tensors = self._number(8, "number of tensors")
        num_keys = self._number(8, "number of keys")
        if num_tensors > _MOST_TENSORS or num_keys > _MOST_KEYS:
            raise self._refused(f"it claims {num_tensors:,} tensors and {num_keys:,} keys")
        seen: set[bytes] = set()
        for index in range(num_keys):
            key = self._text(f"key {index}", _MOST_KEY_BYTES)
            if key in seen:
                raise self._refused(f"it has the key {key[:80]!r} twice")
            seen.add(key)
            self._value(key)
        places = [self._tensor(index) for index in range(num_tensors)]
        start = -(-self._at // self._alignment) * self._alignment
        for name, offset, size in places:
            if offset % self._alignment or start + offset + size > self._size:
                raise self._refused(f"tensor {name[:80]!r} lies beyond its end, or askew")

    def _value(self, key: bytes) -> None:
        what = f"the value of {key[:80]!r}"
        kind = self._number(4, what)
        if key == b"general.alignment":
            if kind != _UINT32:
                raise self._refused("its alignment is no number")
            self._alignment = self._number(4, what)
            if not 0 < self._alignment <= 1 << 20 or self._alignment & (self._alignment - 1):
                raise self._refused(f"its alignment is {self._alignment:,}")
        elif kind == _ARRAY:
            self._array(what)
        elif kind == _STRING:
            self._text(what, _MOST_TEXT_BYTES)
        else:
            self._skip(self._width(kind, what), what)

    def _array(self, what: str) -> None:
        kind = self._number(4, what)
        count = self._number(8, what)
        if kind == _ARRAY:
            raise self._refused(f"{what} is an array of arrays")
        width = 8 if kind == _STRING else self._width(kind, what)
        self._items_left -= count
        if self._items_left < 0 or count * width > self._size - self._at:
            raise self._refused(f"{what} claims {count:,} items")
        if kind != _STRING:
            self._skip(count * width, what)
            return
        for _ in range(count):
            self._skip(self._number(8, what), what)

    def _tensor(self, index: int) -> tuple[bytes, int, int]:
        """Name, offset and bytes of a tensor."""
        what = f"tensor {index}"
        name = self._text(what, _MOST_KEY_BYTES)
        num_dimensions = self._number(4, what)
        if num_dimensions > _MOST_DIMENSIONS:
            raise self._refused(f"{what} claims {num_dimensions:,} dimensions")
        extents = [self._number(8, what) for _ in range(num_dimensions)]
        kind = self._number(4, what)
        if kind not in _BLOCKS:
            raise self._refused(f"{what} is of the unknown type {kind}")
        offset = self._number(8, what)
        items, num_bytes = _BLOCKS[kind]
        if extents and extents[0] % items:
            raise self._refused(f"{what} has rows of {extents[0]:,}, which its type doesn't divide")
        return name, offset, math.prod(extents) * num_bytes // items

    def _width(self, kind: int, what: str) -> int:
        if kind not in _WIDTHS:
            raise self._refused(f"{what} is of the unknown type {kind}")
        return _WIDTHS[kind]

    def _text(self, what: str, most: int) -> bytes:
        length = self._number(8, what)
        if length > most:
            raise self._refused(f"{what} claims {length:,} bytes")
        return self._read(length, what)

    def _number(self, width: int, what: str) -> int:
        return int(struct.unpack("<I" if width == 4 else "<Q", self._read(width, what))[0])

    def _read(self, length: int, what: str) -> bytes:
        self._reach(length, what)
        return self._file.read(length)

    def _skip(self, length: int, what: str) -> None:
        self._reach(length, what)
        self._file.seek(length, 1)

    def _reach(self, length: int, what: str) -> None:
        self._at += length
        if self._at > self._size:
            raise self._refused(f"it ends within {what}")

    def _refused(self, reason: str) -> ModelError:
        return ModelError(
            f"the GGUF file {self._path.name} is refused: {reason}",
            where=str(self._path),
            fix="fetch it again, or ask its author; a folder with safetensors files needs no GGUF",
        )
