"""PNG pictures that are pixels and nothing else: no text, no date, no place, nothing behind them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
# A curve takes some 60 kB and 2 MiB of pixels.
MAX_PNG, MAX_PIXELS = 4 << 20, 64 << 20
# Numbers a pixel by colour type: grey, RGB, grey and alpha, RGBA (W3C, PNG, 3rd edition, section 11.2.1).
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}


def pixels_of(stream: BinaryIO) -> bytes:
    """The rows of a PNG as they are before they are packed, when every byte of the stream belongs to them.

    Raises:
        ValueError: it is no such picture; the reason is told.
    """
    size = stream.seek(0, io.SEEK_END)
    if size > MAX_PNG:
        raise ValueError("it is too large")
    stream.seek(0)
    kinds, header, packed = _chunks(stream.read())
    if kinds[:1] != [b"IHDR"] or kinds[-1:] != [b"IEND"] or set(kinds[1:-1]) != {b"IDAT"}:
        others = {kind.decode("latin-1") for kind in kinds} - {"IHDR", "IDAT", "IEND"}
        raise ValueError(f"it holds {min(others)!a} beside its pixels" if others else "it is broken")
    num_bytes = _num_bytes(header)
    unpacker = zlib.decompressobj()
    try:
        pixels = unpacker.decompress(packed, num_bytes + 1)
    except zlib.error:
        raise ValueError("it is broken") from None
    if len(pixels) != num_bytes or not unpacker.eof or unpacker.unused_data:
        raise ValueError("it holds more or fewer pixels than it says")
    return pixels


def _chunks(content: bytes) -> tuple[list[bytes], bytes, bytes]:
    """The kinds of the chunks in their order, what the first holds, and the packed pixels."""
    kinds: list[bytes] = []
    header, packed, place = b"", [], len(PNG_HEAD)
    if not content.startswith(PNG_HEAD):
        raise ValueError("it is no PNG picture")
    while place < len(content):
        if kinds[-1:] == [b"IEND"]:
            raise ValueError("something follows its end")
        head = content[place : place + 8]
        length = int.from_bytes(head[:4], "big")
        kind, end = head[4:], place + 8 + length
        data, check = content[place + 8 : end], content[end : end + 4]
        if len(check) != 4 or zlib.crc32(kind + data) != int.from_bytes(check, "big"):
            raise ValueError("it is broken")
        header = header or data
        if kind == b"IDAT":
            packed.append(data)
        elif kind == b"IEND" and data:
            raise ValueError("its end isn't empty")
        kinds.append(kind)
        place = end + 4
    return kinds, header, b"".join(packed)


def _num_bytes(header: bytes) -> int:
    """How many bytes the rows take, by the picture's header: each row has one more than its pixels need."""
    if len(header) != 13:
        raise ValueError("it is broken")
    width, height, depth, colour, packing, filtering, interlaced = struct.unpack(">IIBBBBB", header)
    if colour not in _CHANNELS or depth not in (8, 16) or packing or filtering or interlaced:
        raise ValueError("its kind of pixels isn't known here")
    num_bytes = int(height * (1 + width * _CHANNELS[colour] * depth // 8))
    if not 0 < num_bytes <= MAX_PIXELS:
        raise ValueError("it is too large")
    return num_bytes
