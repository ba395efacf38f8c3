"""A source, checked and encoded: rows become a file of token ids as they are read, never all in memory.

Prompts that a model shall answer are the exception: they stay text beside their other columns, which rewards
need. TRL tokenises them when it asks; here they are only measured.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tunesmith.config.run_config import DatasetSource, RunConfig
from tunesmith.data.batches import Batch
from tunesmith.data.checks.rows import BadRow, Row
from tunesmith.data.checks.tokens import TokenChecker, TokenCounts
from tunesmith.data.convert import convert
from tunesmith.data.layout import Layout, kind_of
from tunesmith.data.misfit import require
from tunesmith.data.partial import Checks, Partial, check_batches
from tunesmith.data.row_source import RowSource, open_rows
from tunesmith.data.token_rows import LENGTH, SCHEMAS, token_row
from tunesmith.data.tokens import Encoded, Encoder, all_cores
from tunesmith.data.validate import column_names, given_for
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

# So many sound rows of prompts are kept with their numbers, for rewards to be tried on.
SAMPLE_ROWS = 64


@dataclass
class EncodedSource:
    """Token ids of a source's rows, cut to max_length, and all that was found out about them on the way.

    `sample` holds the first rows with their numbers where the rows are prompts.
    """

    source: DatasetSource
    dataset: Dataset
    checked: Partial
    num_left_out: int
    sample: list[tuple[int, Row]]


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
    columns = None if layout.kind == "prompts" else layout.root_columns
    checked = check_batches(rows.batches(columns), layout, config.method, Checks(), known=known)
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
    return EncodedSource(source, dataset, checked, checked.num_rows - len(dataset), writer.sample)


def _mixed(rows: list[Row]) -> str:
    """The first column in which values are of several types."""
    kinds: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, set()).update({kind_of(value)} - {"null"})
    return next((name for name, found in kinds.items() if len(found) > 1), "?")


class _Writer:
    def __init__(self, layout: Layout, config: RunConfig, tokenizer: Any) -> None:
        self.sample: list[tuple[int, Row]] = []
        self._layout = layout
        self._limit = config.max_length
        encoder = Encoder(
            tokenizer,
            layout.kind,
            assistant_only_loss=config.assistant_only_loss,
            # Pairs and judged answers are compared by their answers alone, whatever sft would learn.
            completion_only_loss=config.completion_only_loss or layout.kind != "conversation",
        )
        self._marks = encoder.marks
        self._bad: frozenset[int] = frozenset()
        self._tokens = TokenChecker(encoder, layout, config.max_length)

    def write(self, rows: RowSource, checked: Partial) -> Dataset:
        import datasets

        checked.tokens = TokenCounts(self._limit)
        self._bad = frozenset(checked.bad_rows)
        if self._layout.kind == "prompts":
            return self._prompts(rows, checked, checked.tokens)
        cache = Path(datasets.config.HF_DATASETS_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="tunesmith-", dir=cache))
        # Workers of a data loader may open the file again, so it stays as long as this process.
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        path = folder / "rows.arrow"
        schema = SCHEMAS[self._layout.kind]
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            for batch in rows.batches(self._layout.root_columns):
                made = [
                    token_row(self._layout.kind, row, texts, self._limit, self._marks)
                    for _, row, texts in self._encoded(batch, checked, checked.tokens)
                    if all(each.num_learned for each in texts)
                ]
                columns = {name: [row[name] for row in made] for name in schema.names}
                stream.write_batch(pa.RecordBatch.from_pydict(columns, schema=schema))
        return datasets.Dataset.from_file(str(path))

    def _prompts(self, rows: RowSource, checked: Partial, counts: TokenCounts) -> Dataset:
        import datasets

        made: list[Row] = []
        for batch in rows.batches():
            for number, row, texts in self._encoded(batch, checked, counts):
                made.append(row | {LENGTH: len(texts[0].ids)})
                if len(self.sample) < SAMPLE_ROWS:
                    self.sample.append((number, row))
        try:
            return datasets.Dataset.from_list(made)
        except (pa.ArrowException, OverflowError) as error:
            raise DataError(
                f"column {_mixed(made)!r} of {rows.source.path} holds values of several types",
                where=rows.source.path,
                fix="give each column that a reward reads one type in all rows",
            ) from error

    def _encoded(
        self, batch: Batch, checked: Partial, counts: TokenCounts
    ) -> Iterator[tuple[int, Row, list[Encoded]]]:
        """Number, canonical row and encoded texts of the rows that can be rendered."""
        canonical = [(number, convert(row, self._layout)) for number, row in self._sound_rows(batch)]
        rows = iter(canonical)
        found_in = self._tokens.encode(canonical, counts)
        for number, group in groupby(found_in, key=lambda each: each[0]):
            row = next(row for each, row in rows if each == number)
            texts = []
            for _, findings, encoded in group:
                checked.log.extend(findings)
                texts.append(encoded)
            whole = [each for each in texts if each is not None]
            if len(whole) == len(texts):
                yield number, row, whole

    def _sound_rows(self, batch: Batch) -> Iterator[tuple[int, Row]]:
        for number, row in enumerate(batch.rows(), batch.first_row):
            if number not in self._bad and not isinstance(row, BadRow):
                yield number, row
