"""The search for secrets in a stream: piece by piece, in every reading of each piece, with bounded memory."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

import polars as pl

from tunesmith.data.checks.secrets import SCREEN, find_keys
from tunesmith.publish.containers import looks_packed
from tunesmith.publish.views import views

PIECE = 2 << 20
# What is read around each piece: before it the context of keys that need one, after it the longest key (a
# web token has up to 12,000 characters) in JSON escapes or base64.
BEFORE, AFTER = 8 << 10, 96 << 10


class Hit(NamedTuple):
    """A secret at a byte of a stream."""

    offset: int
    kind: str


class Packed(NamedTuple):
    """A container that stands in base64 inside a stream."""

    offset: int
    content: bytes


def hits_in_text(
    stream: BinaryIO, needles: Mapping[bytes, str], start: int = 0, end: int | None = None
) -> Iterator[Hit | Packed]:
    """The secrets between two bytes of a stream, each place once, and what is packed there in base64."""
    stream.seek(0, io.SEEK_END)
    end = stream.tell() if end is None else end
    for begin in range(start, end, PIECE):
        low = max(start, begin - BEFORE)
        stream.seek(low)
        content = stream.read(min(end, begin + PIECE + AFTER) - low)
        own = range(begin - low, min(begin + PIECE, end) - low)
        seen: set[int] = set()
        for view in views(content):
            for place, kind in _secrets_of(view.content, needles):
                origin = view.origin(place)
                if origin in own and origin not in seen:
                    seen.add(origin)
                    yield Hit(low + origin, kind)
            for which, piece in enumerate(view.decoded):
                if len(piece) > 16 and looks_packed(piece) and view.first_origin(which) in own:
                    yield Packed(low + view.first_origin(which), piece[:-1])


def hits_of_values(stream: BinaryIO, needles: Mapping[bytes, str], start: int, end: int) -> Iterator[Hit]:
    """The places of exact byte strings between two bytes of a stream."""
    overlap = max(map(len, needles), default=1) - 1
    for begin in range(start, end if needles else start, PIECE):
        stream.seek(begin)
        content = stream.read(min(end, begin + PIECE + overlap) - begin)
        for needle, kind in needles.items():
            place = content.find(needle)
            while 0 <= place < PIECE:
                yield Hit(begin + place, kind)
                place = content.find(needle, place + 1)


def _secrets_of(content: bytes, needles: Mapping[bytes, str]) -> Iterator[tuple[int, str]]:
    for needle, kind in needles.items():
        place = content.find(needle)
        while place >= 0:
            yield place, kind
            place = content.find(needle, place + len(needle))
    text = content.decode("latin-1")  # a character for a byte, so that places are the same
    if pl.Series([text]).str.contains(SCREEN)[0]:
        for start, _, secret in find_keys(text):
            yield start, secret.kind


def secrets_of_text(text: str, needles: Mapping[bytes, str]) -> list[tuple[int, str]]:
    """Places (in UTF-8) and kinds of the secrets of a short text, such as a file's name."""
    content = text.encode("utf-8", "surrogateescape")
    return [
        (view.origin(place), kind)
        for view in views(content)
        for place, kind in _secrets_of(view.content, needles)
    ]
