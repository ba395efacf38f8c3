"""JSON files as batches: one object a line, or one array of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tunesmith.data import batches
from tunesmith.data.batches import MAX_DEPTH, Batch, python_batch, sound
from tunesmith.data.checks.rows import BadRow, Row


def read_jsonl(path: Path) -> Iterator[Batch]:
    """A file of one JSON object a line; blank lines are no rows."""
    first = 0
    parser = _JsonParser()
    for chunk in _chunks(path):
        lines = _Lines.of(chunk)
        if lines.num_rows:
            yield _lines_batch(lines, first, len(chunk), parser)
            first += lines.num_rows


class _Lines(NamedTuple):
    """A piece of a file, and where each of its lines begins, the end of the last one included."""

    chunk: bytes
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, chunk: bytes) -> _Lines:
        """The lines of `chunk` that are not blank."""
        if not chunk.endswith(b"\n"):
            chunk += b"\n"
        characters = np.frombuffer(chunk, dtype=np.uint8)
        ends = np.flatnonzero(characters == ord("\n")) + 1
        starts = np.concatenate(([0], ends))
        # A row begins with a brace; what begins with white space, or at once ends, may be a blank line.
        if np.isin(characters[starts[:-1]], (9, 10, 13, 32)).any():
            kept = [bare for line in chunk.split(b"\n") if (bare := line.strip(b" \t\r"))]
            return cls.of(b"\n".join(kept)) if kept else cls(b"", starts[:1])
        return cls(chunk, starts)

    def are_flat_objects(self) -> bool:
        """True where each line may be one object that is not nested deeply.

        Where each begins and ends with a brace, as many rows as lines can only be a row on each. Arrow's and
        polars' own recursion knows no limit: a line of brackets would end the process.
        """
        characters = np.frombuffer(self.chunk, dtype=np.uint8)
        begins, ends = self.starts[:-1], self.starts[1:] - 2
        ends = np.where(characters[ends] == ord("\r"), ends - 1, ends)
        if not ((characters[begins] == ord("{")) & (characters[ends] == ord("}"))).all():
            return False
        opening = (characters == ord("{")) | (characters == ord("["))
        num_opening = np.add.reduceat(opening, begins, dtype=np.int64)
        return all(
            _depth(characters[self.starts[index] : self.starts[index + 1]]) <= MAX_DEPTH
            for index in np.flatnonzero(num_opening > MAX_DEPTH)
        )

    @property
    def num_rows(self) -> int:
        return len(self.starts) - 1

    def part(self, start: int, stop: int) -> _Lines:
        first, end = self.starts[start], self.starts[stop]
        return _Lines(self.chunk[first:end], self.starts[start : stop + 1] - first)

    def line(self, index: int) -> bytes:
        return self.chunk[self.starts[index] : self.starts[index + 1] - 1]


def _chunks(path: Path) -> Iterator[bytes]:
    """The file in pieces that end with a line."""
    with path.open("rb") as file:
        rest = b""
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        while block := file.read(batches.CHUNK_BYTES):
            end = block.rfind(b"\n") + 1
            if not end:
                rest += block
                continue
            yield rest + block[:end]
            rest = block[end:]
        if rest:
            yield rest


def _depth(characters: npt.NDArray[np.uint8]) -> int:
    """How deep the brackets of a line are nested, those inside of its strings counted, too."""
    opening = np.isin(characters, np.frombuffer(b"{[", dtype=np.uint8))
    closing = np.isin(characters, np.frombuffer(b"}]", dtype=np.uint8))
    return int(np.cumsum(opening.astype(np.int64) - closing).max(initial=0))


def _lines_batch(lines: _Lines, first: int, num_bytes: int, parser: _JsonParser) -> Batch:
    def rows(indices: Sequence[int] | None) -> list[Row | BadRow]:
        wanted = range(lines.num_rows) if indices is None else indices
        return [json_row(lines.line(index)) for index in wanted]

    def table() -> pa.Table | None:
        return parser.table(lines.chunk, lines.num_rows) if lines.are_flat_objects() else None

    def part(start: int, stop: int) -> Batch:
        some = lines.part(start, stop)
        return _lines_batch(some, first + start, len(some.chunk), parser)

    return Batch(first, lines.num_rows, num_bytes, table, rows, part)


def json_row(line: bytes) -> Row | BadRow:
    """The row that a line of JSON holds, or why it holds none."""
    try:
        row = json.loads(line.decode())  # given bytes, json would take a line of UTF-16 too
    except UnicodeDecodeError as error:
        return BadRow(f"is not UTF-8: byte {line[error.start]:#04x} at {error.start}")
    except ValueError as error:
        return BadRow(f"is no JSON: {_json_problem(error)}")
    except RecursionError:
        return BadRow("is no JSON that can be read: it is nested too deeply")
    return sound(row)


def _json_problem(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        said = error.msg.removesuffix(" at")
        return f"{said[0].lower()}{said[1:]} at position {error.pos}"
    return str(error)[:120]


class _JsonParser:
    """Parses chunks of JSON lines with the schema that the first one taught: several times as fast."""

    def __init__(self) -> None:
        self._schema: pa.Schema | None = None

    def table(self, chunk: bytes, num_rows: int) -> pa.Table | None:
        """The chunk as a table, or None where it isn't one row a line of one schema."""
        import pyarrow.json as pj

        if not _is_utf8(chunk):
            return None
        options = pj.ParseOptions(explicit_schema=self._schema, unexpected_field_behavior="infer")
        blocks = pj.ReadOptions(block_size=max(1 << 20, len(chunk) // 2 + 1))
        try:
            found = pj.read_json(io.BytesIO(chunk), read_options=blocks, parse_options=options)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            return None
        if found.num_rows != num_rows:
            return None
        if self._schema is None:
            self._schema = pa.schema([each for each in found.schema if _is_settled(each.type)])
        return found


def _is_settled(kind: pa.DataType) -> bool:
    """False where later rows may be of another type: all null so far, or text that looked like a date."""
    if pa.types.is_list(kind):
        return _is_settled(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_is_settled(kind.field(index).type) for index in range(kind.num_fields))
    return not (pa.types.is_null(kind) or pa.types.is_temporal(kind))


def _is_utf8(chunk: bytes) -> bool:
    if chunk.isascii():
        return True
    try:
        chunk.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_json_array(path: Path) -> Iterator[Batch]:
    """A file that is one JSON array of rows, decoded piece by piece."""
    first = 0
    rows: list[Row | BadRow] = []
    size = 0
    for row, num_chars in _array_items(path):
        rows.append(row)
        size += num_chars
        if len(rows) >= batches.BATCH_ROWS or size >= batches.CHUNK_BYTES:
            yield python_batch(rows, first, size)
            first, rows, size = first + len(rows), [], 0
    if rows:
        yield python_batch(rows, first, size)


def _array_items(path: Path) -> Iterator[tuple[Row | BadRow, int]]:
    decoder, text, at = json.JSONDecoder(), "", 0
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        text = file.read(batches.CHUNK_BYTES).lstrip().removeprefix("[")
        while True:
            at = _skip(text, at)
            if at < len(text) and text[at] == "]":
                if text[at + 1 :].strip() or file.read(4096).strip():
                    yield BadRow("follows the end of the array, and is not read"), 0
                return
            try:
                value, end = decoder.raw_decode(text, at)
                if end == len(text):  # a number at the very end may go on in the next piece
                    raise json.JSONDecodeError("cut", text, end)
            except (ValueError, RecursionError) as error:
                more = file.read(batches.CHUNK_BYTES)
                if not more:
                    said = str(getattr(error, "msg", error)).removesuffix(" at").lower()[:100]
                    yield BadRow(f"breaks the array off, and nothing after it was read: {said}"), 0
                    return
                text, at = text[at:] + more, 0
                continue
            yield sound(value), end - at
            at = end


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at
