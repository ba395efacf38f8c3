"""Files as batches of rows with their numbers, read lazily, so that memory doesn't grow with the file.

A batch is an Arrow table where its rows fit one schema, and Python rows in any case: what doesn't parse
becomes a `BadRow` at its place rather than an error that hides all the others. Parsing waits until a batch is
asked for its rows, so that a shard can pass over the others' batches.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tunesmith.data.checks.rows import BadRow, Row
from tunesmith.errors import DataError

# Large enough to keep all cores busy with a batch, small enough that a few of them take little memory.
CHUNK_BYTES = 16 << 20
BATCH_ROWS = 16_384
# A batch that fits no schema is halved down to so many rows, which are then judged one by one.
_SMALL = 64
# Rows nested more deeply are no training data; Python, Arrow and chat templates all recurse over them.
MAX_DEPTH = 64


class Batch:
    """Consecutive rows. `table` is None where they don't fit one schema, and then `rows` has to do."""

    def __init__(
        self,
        first_row: int,
        num_rows: int,
        num_bytes: int,
        load_table: Callable[[], pa.Table | None],
        load_rows: Callable[[Sequence[int] | None], list[Row | BadRow]],
        load_part: Callable[[int, int], Batch],
    ) -> None:
        self.first_row = first_row
        self.num_rows = num_rows
        self.num_bytes = num_bytes
        self._load_table = load_table
        self._load_rows = load_rows
        self._load_part = load_part

    @cached_property
    def table(self) -> pa.Table | None:
        """The rows as an Arrow table, all of its text valid UTF-8."""
        return self._load_table()

    def rows(self, indices: Sequence[int] | None = None) -> list[Row | BadRow]:
        """The rows, or those at `indices` (0-based within the batch), as Python has them."""
        return self._load_rows(indices)

    def slice(self, start: int, stop: int) -> Batch:
        """The rows from `start` to `stop` within the batch, as a batch."""
        part = self._load_part(start, stop)
        part.first_row = self.first_row + start
        return part


def regular(batch: Batch) -> Iterator[Batch]:
    """`batch`, or its halves, quarters ...: rows that fit no schema are set apart from the many that do."""
    if batch.table is not None or batch.num_rows <= _SMALL:
        yield batch
        return
    middle = batch.num_rows // 2
    yield from regular(batch.slice(0, middle))
    yield from regular(batch.slice(middle, batch.num_rows))


def read_file(path: Path, columns: Sequence[str] | None = None) -> Iterator[Batch]:
    """The batches of a .jsonl, .json, .parquet, .csv or .tsv file; only `columns` where that is possible.

    Raises:
        OSError, ArrowInvalid: the file as a whole can't be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet(path, columns)
    if suffix in (".csv", ".tsv"):
        return read_csv(path, "\t" if suffix == ".tsv" else ",")
    if suffix == ".json" and _begins_with(path, b"["):
        return read_json_array(path)
    return read_jsonl(path)


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> Iterator[Batch]:
    """A Parquet file, one row group after the other."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False) as file:
        names = file.schema_arrow.names
        wanted = None if columns is None else [name for name in columns if name in names]
        first = 0
        for group in range(file.num_row_groups):
            meta = file.metadata.row_group(group)
            share = meta.total_byte_size / max(1, meta.num_rows)
            for record in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted):
                yield table_batch(pa.Table.from_batches([record]), first, int(share * record.num_rows))
                first += record.num_rows


def table_batch(table: pa.Table, first_row: int, num_bytes: int | None = None) -> Batch:
    """A batch of what is in Arrow already."""
    if "_view" in str(table.schema):  # Arrow can't take single rows of views; polars makes plain text of them
        table = pl.DataFrame(table).to_arrow(compat_level=pl.CompatLevel.oldest())

    def rows(indices: Sequence[int] | None) -> list[Row | BadRow]:
        part = table if indices is None else table.take(pa.array(indices, pa.int64()))
        try:
            found: list[Row | BadRow] = part.to_pylist()
        except UnicodeDecodeError:
            return [_decoded(part.slice(index, 1)) for index in range(part.num_rows)]
        return found

    def checked() -> pa.Table | None:
        try:
            table.validate(full=True)  # other bytes than UTF-8 would be undefined behaviour further down
        except pa.ArrowInvalid:
            return None
        return table

    def part(start: int, stop: int) -> Batch:
        return table_batch(table.slice(start, stop - start), first_row + start)

    size = table.nbytes if num_bytes is None else num_bytes
    return Batch(first_row, table.num_rows, size, checked, rows, part)


def _decoded(row: pa.Table) -> Row | BadRow:
    for name in row.column_names:
        try:
            row.column(name).to_pylist()
        except UnicodeDecodeError as error:
            return BadRow(f"{name} is not UTF-8 text: byte {error.object[error.start]:#04x} at {error.start}")
    found: Row = row.to_pylist()[0]
    return found


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
            kept = [stripped for line in chunk.split(b"\n") if (stripped := line.strip())]
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
        while block := file.read(CHUNK_BYTES):
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


def sound(row: Any) -> Row | BadRow:
    """`row` if it is an object that is not nested too deeply, else why it is no row."""
    if not isinstance(row, dict):
        return BadRow(f"is a JSON {_json_kind(row)}, should be an object")
    if _is_deep(row, MAX_DEPTH):
        return BadRow(f"is nested more than {MAX_DEPTH} levels deep")
    return row


def _is_deep(value: Any, left: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left <= 0 or any(_is_deep(each, left - 1) for each in inner if isinstance(each, dict | list))


def _json_problem(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[0].lower()}{error.msg[1:]} at position {error.pos}"
    return str(error)[:120]


def _json_kind(value: Any) -> str:
    return {list: "list", str: "text", type(None): "null", bool: "truth value"}.get(type(value), "number")


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
            if not all(_is_settled(each.type) for each in found.schema):
                return found
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
        if len(rows) >= BATCH_ROWS or size >= CHUNK_BYTES:
            yield python_batch(rows, first, size)
            first, rows, size = first + len(rows), [], 0
    if rows:
        yield python_batch(rows, first, size)


def _array_items(path: Path) -> Iterator[tuple[Row | BadRow, int]]:
    decoder, text, at = json.JSONDecoder(), "", 0
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        text = file.read(CHUNK_BYTES).lstrip().removeprefix("[")
        while True:
            at = _skip(text, at)
            if at < len(text) and text[at] == "]":
                return
            try:
                value, end = decoder.raw_decode(text, at)
                if end == len(text):  # a number at the very end may go on in the next piece
                    raise json.JSONDecodeError("cut", text, end)
            except (ValueError, RecursionError) as error:
                more = file.read(CHUNK_BYTES)
                if not more:
                    yield BadRow(f"ends the array early: {_json_problem(error)[:100]}"), 0  # type: ignore[arg-type]
                    return
                text, at = text[at:] + more, 0
                continue
            yield sound(value), end - at
            at = end


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def read_csv(path: Path, delimiter: str) -> Iterator[Batch]:
    """A CSV file with a header; every value is text."""
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        names = next(reader, [])
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise DataError(
                f"{path.name} has two columns named {doubled!r}", where=f"{path}:1", fix="rename one of them"
            )
        first = size = 0
        rows: list[Row | BadRow] = []
        for values in reader:
            if not values:
                continue
            if len(values) == len(names):
                rows.append(dict(zip(names, values, strict=True)))
            else:
                rows.append(BadRow(f"has {len(values)} fields where the header has {len(names)}"))
            size += sum(map(len, values))
            if len(rows) >= BATCH_ROWS or size >= CHUNK_BYTES:
                yield python_batch(rows, first, size)
                first, rows, size = first + len(rows), [], 0
        if rows:
            yield python_batch(rows, first, size)


def python_batch(rows: list[Row | BadRow], first_row: int, num_bytes: int) -> Batch:
    """A batch of Python rows."""

    def table() -> pa.Table | None:
        if any(isinstance(row, BadRow) for row in rows):
            return None
        try:
            return pa.Table.from_struct_array(pa.array(rows))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, ValueError):
            return None  # mixed types, or half a character

    def chosen(indices: Sequence[int] | None) -> list[Row | BadRow]:
        return rows if indices is None else [rows[index] for index in indices]

    def part(start: int, stop: int) -> Batch:
        return python_batch(rows[start:stop], first_row + start, num_bytes * (stop - start) // len(rows))

    return Batch(first_row, len(rows), num_bytes, table, chosen, part)


def _begins_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(mark)
