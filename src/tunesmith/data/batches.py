"""Batches: consecutive rows with their numbers, as an Arrow table and as Python rows.

The table is there where the rows fit one schema, Python rows in any case: what doesn't parse is a `BadRow` at
its place rather than an error that hides all the others. Parsing waits until a batch is asked for its rows,
so that a shard can pass over the others' batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import polars as pl
import pyarrow as pa

from tunesmith.data.checks.rows import BadRow, Row

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


def _json_kind(value: Any) -> str:
    return {list: "list", str: "text", type(None): "null", bool: "truth value"}.get(type(value), "number")
