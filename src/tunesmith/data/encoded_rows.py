"""A source, checked and encoded: rows become a file of token ids as they are read, never all in memory."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tunesmith.config.run_config import DatasetSource, RunConfig
from tunesmith.data.batches import Batch
from tunesmith.data.checks.rows import BadRow, Row
from tunesmith.data.checks.tokens import TokenChecker, TokenCounts
from tunesmith.data.convert import convert
from tunesmith.data.formats import require
from tunesmith.data.layout import Layout
from tunesmith.data.partial import Checks, Partial, check_batches
from tunesmith.data.row_source import RowSource, open_rows
from tunesmith.data.tokens import Encoded, Encoder, all_cores, last_learned
from tunesmith.data.validate import column_names, given_for
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("length", pa.int64()),  # before the cut
        ("ends", pa.bool_()),  # whether the last token to learn ends a turn or a text
    ]
)


@dataclass
class EncodedSource:
    """Token ids of a source's rows, cut to max_length, and all that was found out about them on the way."""

    source: DatasetSource
    dataset: Dataset
    checked: Partial
    num_left_out: int


def encode_source(
    source: DatasetSource, config: RunConfig, tokenizer: Any, *, held_out: bool = False
) -> EncodedSource:
    """The rows of `source`; those with errors are counted in its findings and left out.

    Of `held_out` rows the map is used only where they have its columns.

    Raises:
        DataError: it can't be read, fits no format of the method, or holds no row.
    """
    rows = open_rows(source)
    given = given_for(rows, source.map) if held_out else source.map
    sample = rows.sample(given.values())
    if not sample:
        raise DataError(
            f"{source.path} has no rows", where=source.path, fix="give a dataset with at least one row"
        )
    known = column_names(sample)
    layout = require(config.method, known, sample, given, source.path)
    checked = check_batches(rows.batches(layout.root_columns), layout, config.method, Checks(), known=known)
    writer = _Writer(layout, config, tokenizer)
    try:
        with all_cores():
            dataset = writer.write(rows, checked)
    except OSError as error:
        raise DataError(
            f"the rows of {source.path} can't be kept: {error.strerror or error}",
            where=source.path,
            fix="make room on the disk, or point HF_HOME at another one",
        ) from error
    return EncodedSource(source, dataset, checked, checked.num_rows - len(dataset))


class _Writer:
    def __init__(self, layout: Layout, config: RunConfig, tokenizer: Any) -> None:
        self._layout = layout
        self._config = config
        encoder = Encoder(
            tokenizer,
            layout.kind,
            assistant_only_loss=config.assistant_only_loss,
            completion_only_loss=config.completion_only_loss,
        )
        self._marks = encoder.marks
        self._bad: frozenset[int] = frozenset()
        self._tokens = TokenChecker(encoder, layout, config.max_length)

    def write(self, rows: RowSource, checked: Partial) -> Dataset:
        import datasets

        checked.tokens = TokenCounts(self._config.max_length)
        self._bad = frozenset(checked.bad_rows)
        cache = Path(datasets.config.HF_DATASETS_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="tunesmith-", dir=cache))
        # Workers of a data loader may open the file again, so it stays as long as this process.
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        path = folder / "rows.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as stream:
            for batch in rows.batches(self._layout.root_columns):
                stream.write_batch(self._encoded(batch, checked, checked.tokens))
        return datasets.Dataset.from_file(str(path))

    def _encoded(self, batch: Batch, checked: Partial, counts: TokenCounts) -> pa.RecordBatch:
        canonical = [(number, convert(row, self._layout)) for number, row in self._sound_rows(batch)]
        columns: list[list[Any]] = [[], [], [], []]
        for _, found, encoded in self._tokens.encode(canonical, counts):
            checked.log.extend(found)
            if encoded is not None and encoded.num_learned:
                for column, value in zip(columns, self._cut(encoded), strict=True):
                    column.append(value)
        return pa.record_batch(columns, schema=_SCHEMA)

    def _sound_rows(self, batch: Batch) -> Iterator[tuple[int, Row]]:
        for number, row in enumerate(batch.rows(), batch.first_row):
            if number not in self._bad and not isinstance(row, BadRow):
                yield number, row

    def _cut(self, encoded: Encoded) -> tuple[list[int], list[int], int, bool]:
        limit = self._config.max_length
        ids, labels = encoded.ids[:limit], encoded.labels[:limit]
        return ids, labels, len(encoded.ids), last_learned(labels) in self._marks
