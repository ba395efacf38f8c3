"""The inspection of one file: its bytes, and what is packed in it, as deep as packing goes."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tunesmith.publish.containers import Container, container_of
from tunesmith.publish.known import needles
from tunesmith.publish.search import Packed, hits_in_text, hits_of_values, secrets_of_text
from tunesmith.publish.tensor_files import number_regions

MAX_DEPTH = 6
# What the containers of one file may inflate to, all together; every member counts as a page at least.
MAX_INFLATED = 256 << 20
SMALLEST_MEMBER = 4 << 10
IN_MEMORY = 8 << 20
# A file with more secrets than these needs no longer list.
MAX_FINDINGS = 100


@dataclass(frozen=True)
class Finding:
    """A secret in a file, or a reason why the file can't be searched; never the secret itself.

    `inside` names the members of containers that lead to it; `offset` counts bytes in the innermost of them,
    and is None where the name of the file or member is meant, or nothing in particular.
    """

    path: Path
    inside: tuple[str, ...]
    offset: int | None
    kind: str

    @property
    def where(self) -> str:
        """The place as a person reads it: `model.zip > data.pkl, byte 17`."""
        place = " > ".join((str(self.path), *self.inside))
        return place if self.offset is None else f"{place}, byte {self.offset:,}"


class _TooMuch(Exception):
    """What is packed in the file inflates beyond all measure."""


class Inspection:
    """The secrets of one file. `label` is how findings name it; `known` are this machine's secrets."""

    def __init__(self, label: Path, known: Mapping[bytes, str]) -> None:
        self.needles = needles(known)
        self.findings: dict[tuple[tuple[str, ...], int | None], Finding] = {}
        self._inflatable = MAX_INFLATED
        self._nameless = bool(secrets_of_text(str(label), self.needles))
        self.label = Path("(a file whose name is a secret)") if self._nameless else label

    def run(self, stream: BinaryIO) -> list[Finding]:
        """What was found in the stream and in everything packed in it."""
        if self._nameless:
            self._add((), None, "a secret in a file's name")
        try:
            self._look(stream, ())
        except _TooMuch:
            self._add((), None, f"what it packs inflates to more than {MAX_INFLATED >> 20} MiB: not searched")
        return list(self.findings.values())

    @property
    def _is_full(self) -> bool:
        return len(self.findings) >= MAX_FINDINGS

    def _add(self, inside: tuple[str, ...], offset: int | None, kind: str) -> None:
        if not self._is_full:
            self.findings.setdefault((inside, offset), Finding(self.label, inside, offset, kind))

    def _look(self, stream: BinaryIO, inside: tuple[str, ...]) -> None:
        size = stream.seek(0, io.SEEK_END)
        numbers = list(number_regions(stream, size))
        if numbers:
            for hit in hits_of_values(stream, self.needles, 0, size):
                self._add(inside, hit.offset, hit.kind)
        for start, end in _between(numbers, size):
            for found in hits_in_text(stream, self.needles, start, end):
                if self._is_full:
                    return
                if isinstance(found, Packed):
                    self._look_deeper([found.content], (*inside, f"base64 at byte {found.offset:,}"))
                else:
                    self._add(inside, found.offset, found.kind)
        container = container_of(stream)
        if container is not None:
            self._open(container, stream, inside)

    def _open(self, container: Container, stream: BinaryIO, inside: tuple[str, ...]) -> None:
        if len(inside) >= MAX_DEPTH:
            self._add(inside, None, "it is packed too deep: not searched")
            return
        try:
            for member in container.members(stream):
                self._look_deeper(member.blocks, (*inside, self._member_name(member.name, inside)))
                if self._is_full:
                    return
        except _TooMuch:
            raise
        except (
            Exception
        ) as error:  # a broken or hostile archive raises anything; what can't be read stays here
            if container.is_certain:
                reason = str(error).split("\n")[0][:80] if isinstance(error, ValueError) else "it is broken"
                self._add(inside, None, f"{container.kind} that can't be searched: {reason}")

    def _look_deeper(self, blocks: Iterable[bytes], inside: tuple[str, ...]) -> None:
        self._inflatable -= SMALLEST_MEMBER
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as spooled:
            for block in blocks:
                self._inflatable -= len(block)
                if self._inflatable < 0:
                    raise _TooMuch
                spooled.write(block)
            self._look(spooled, inside)  # type: ignore[arg-type]

    def _member_name(self, name: str, inside: tuple[str, ...]) -> str:
        if secrets_of_text(name, self.needles):
            self._add(inside, None, "a secret in a member's name")
            return "(a member whose name is a secret)"
        return ascii(name)[1:-1][:200]


def _between(regions: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """The regions that the given ones leave over."""
    done = 0
    for start, end in regions:
        if done < start:
            yield done, start
        done = end
    if done < size:
        yield done, size
