"""A piece of a file as it reads without its encoding: JSON and URL escapes, UTF-16 and UTF-32, base64."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator

# Texts in JSON in JSON, base64 of base64: deeper ones are left as they are.
MAX_LAYERS = 3
_ESCAPE = re.compile(rb"""\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(["'\\/bfnrt]))|%([0-9a-fA-F]{2})""")
_CONTROLS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
# 24 characters hold the shortest key that has a shape of its own (shorter values of this machine are looked
# for in their coded form). Lines of it belong together.
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}(?:\r?\n[ \t]*[A-Za-z0-9+/_-]{4,})*")
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
# What is in all that the next four match, and quick to look for.
_WIDE_HINT = re.compile(rb"\0.\0.\0.\0", re.DOTALL)
_WIDE = (
    (re.compile(rb"(?:[\t\n\r -~]\0){8,}"), 2),
    (re.compile(rb"(?:[\t\n\r -~]\0\0\0){8,}"), 4),
    (re.compile(rb"(?:\0[\t\n\r -~]){8,}"), -2),
    (re.compile(rb"(?:\0\0\0[\t\n\r -~]){8,}"), -4),
)


# What a string in a binary format may follow: its length, in one to eight bytes.
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a]")
_STRING = re.compile(rb"[ -~]{16,}")
_LENGTHS = ("<H", ">H", "<I", ">I", "<Q")


class View:
    """Bytes, and for each of them the place in the file's piece that it comes from.

    `decoded` is what each run of base64 spells, where the view is of such runs: a container may begin there.
    """

    def __init__(
        self,
        pieces: Iterable[tuple[int, bytes]],
        scale: float = 1.0,
        under: View | None = None,
        is_base64: bool = False,
    ) -> None:
        """`pieces` are places in `under` and what is read there; a byte of them spans `scale` bytes of it."""
        self._starts: list[int] = []
        self._origins: list[int] = []
        self._scale = scale
        self._under = under
        parts: list[bytes] = []
        length = 0
        for origin, content in pieces:
            self._starts.append(length)
            self._origins.append(origin)
            parts.append(content)
            length += len(content)
        self.content = b"".join(parts)
        self.decoded = parts if is_base64 else []

    def origin(self, place: int) -> int:
        """Where in the file's piece the byte at `place` comes from."""
        which = max(0, bisect_right(self._starts, place) - 1)
        found = self._origins[which] + int((place - self._starts[which]) * self._scale)
        return found if self._under is None else self._under.origin(found)

    def first_origin(self, which: int) -> int:
        """Where in the file's piece a piece of the view begins."""
        return self.origin(self._starts[which])


def views(content: bytes) -> Iterator[View]:
    """The content as it is, and then every reading of it that differs."""
    yield from _readings(View([(0, content)]), MAX_LAYERS)


def _readings(view: View, layers: int) -> Iterator[View]:
    yield view
    if layers == 0:
        return
    content = view.content
    if (b"\\" in content or b"%" in content) and _ESCAPE.search(content):
        yield from _readings(View(_unescaped(content), under=view), layers - 1)
    if _WIDE_HINT.search(content):
        for pattern, width in _WIDE:
            wide = [
                (match.start(), match[0][(0 if width > 0 else -width - 1) :: abs(width)] + b"\n")
                for match in pattern.finditer(content)
            ]
            if wide:
                yield from _readings(View(wide, scale=abs(width), under=view), layers - 1)
    if _CONTROL.search(content):
        yield View(_counted(content), under=view)
    runs = [(match.start(), re.sub(rb"\s", b"", match[0])) for match in _BASE64.finditer(content)]
    for skipped in range(4 if runs else 0):
        decoded = View(_decoded(runs, skipped), scale=4 / 3, under=view, is_base64=True)
        yield from _readings(decoded, layers - 1)


def _unescaped(content: bytes) -> Iterator[tuple[int, bytes]]:
    done = 0
    for match in _ESCAPE.finditer(content):
        yield done, content[done : match.start()]
        code = match[1] or match[2] or match[4]
        if code is None:
            character = _CONTROLS.get(match[3], match[3])
        elif match[1]:
            character = chr(int(code, 16)).encode("utf-8", "surrogatepass")
        else:
            character = bytes([int(code, 16)])
        yield match.start(), character
        done = match.end()
    yield done, content[done:]


def _counted(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Strings of a binary format without the lengths before them and what follows, which may be letters."""
    for match in _STRING.finditer(content):
        start = match.start()
        # Before the string, or as its first characters where the length (and the field's number) are such.
        found = {(start, content[start - 1]), (start + 1, content[start]), (start + 2, content[start + 1])}
        if start >= 2:  # in protocol buffers seven bits a byte
            found.add((start, content[start - 2] & 127 | content[start - 1] << 7))
        for form in _LENGTHS:
            if start >= struct.calcsize(form):
                found.add((start, struct.unpack_from(form, content, start - struct.calcsize(form))[0]))
        for begin, length in found:
            if 16 <= length <= match.end() - begin:
                yield begin, content[begin : begin + length] + b"\n"


def _decoded(runs: list[tuple[int, bytes]], skipped: int) -> Iterator[tuple[int, bytes]]:
    for start, run in runs:
        usable = (len(run) - skipped) // 4 * 4
        rest = run[skipped : skipped + usable] + _padded(run[skipped + usable :])
        try:
            yield start + skipped, base64.b64decode(rest.translate(_TO_STANDARD)) + b"\n"
        except binascii.Error:  # one character too many at its end; it never spells a byte
            yield start + skipped, base64.b64decode(rest[:usable].translate(_TO_STANDARD)) + b"\n"


def _padded(tail: bytes) -> bytes:
    return tail + b"=" * (4 - len(tail)) if len(tail) >= 2 else b""
