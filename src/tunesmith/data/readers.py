"""Files as batches of rows, read lazily, so that memory doesn't grow with the file."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from tunesmith.data import batches
from tunesmith.data.batches import Batch, python_batch, table_batch
from tunesmith.data.checks.rows import BadRow, Row
from tunesmith.data.json_files import read_json_array, read_jsonl
from tunesmith.errors import DataError


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
            for record in file.iter_batches(batches.BATCH_ROWS, row_groups=[group], columns=wanted):
                yield table_batch(pa.Table.from_batches([record]), first, int(share * record.num_rows))
                first += record.num_rows


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
            if len(rows) >= batches.BATCH_ROWS or size >= batches.CHUNK_BYTES:
                yield python_batch(rows, first, size)
                first, rows, size = first + len(rows), [], 0
        if rows:
            yield python_batch(rows, first, size)


def _begins_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(mark)
