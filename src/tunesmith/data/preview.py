"""Rows as the trainer sees them: rendered text in pieces, each with loss or without, special tokens apart."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from tunesmith.config.run_config import DatasetSource
from tunesmith.data.checks.rows import BadRow, Row, RowChecker
from tunesmith.data.convert import convert
from tunesmith.data.findings import CODES
from tunesmith.data.layout import Layout
from tunesmith.data.misfit import require
from tunesmith.data.row_source import open_rows
from tunesmith.data.tokens import IGNORED_LABEL, Encoder, Rendered
from tunesmith.data.validate import column_names
from tunesmith.errors import DataError, ModelError


class Piece(NamedTuple):
    """A run of tokens that are alike; `special` ones are no text but marks, such as the end of a turn.

    `cut` ones lie beyond max_length: they are not trained on.
    """

    text: str
    loss: bool
    special: bool
    cut: bool


@dataclass(frozen=True)
class PreviewRow:
    """One text of a row; a pair has two, `chosen` and `rejected`. `fault` says why there are no pieces."""

    row: int
    name: str
    pieces: tuple[Piece, ...] = ()
    num_tokens: int = 0
    num_learned: int = 0
    num_cut: int = 0
    is_prompt: bool = False
    fault: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The row as the `--json` document has it."""
        return {**vars(self), "pieces": [piece._asdict() for piece in self.pieces]}


@dataclass(frozen=True)
class Preview:
    """The rows that were looked at, and how they were read."""

    layout: Layout
    rows: tuple[PreviewRow, ...]


def preview(
    source: DatasetSource,
    method: str,
    tokenizer: Any,
    *,
    given: Mapping[str, str],
    wanted: Sequence[int] | int,
    max_length: int,
    seed: int | None = None,
) -> Preview:
    """The rows with the numbers `wanted`, or so many from the beginning or, with a seed, from anywhere.

    Raises:
        DataError: the data can't be read, fit no format of the method, or have no such row.
    """
    rows = open_rows(source)
    sample = rows.sample(given.values())
    layout = require(method, column_names(sample), sample, given, source.path)
    numbers: Sequence[int]
    if not isinstance(wanted, int):
        numbers = sorted(set(wanted))
    elif seed is None:
        numbers = range(wanted)
    else:
        total = rows.count()
        numbers = sorted(random.Random(seed).sample(range(total), min(wanted, total)))
    viewer = Viewer(layout, Encoder(tokenizer, layout.kind), max_length)
    found = [view for number, row in rows.rows_at(numbers) for view in viewer.view(number, row)]
    missing = set(numbers) - {view.row for view in found} if not isinstance(wanted, int) else set()
    if missing:
        raise DataError(
            f"there is no row {min(missing):,}: rows are numbered from 0 to {rows.count() - 1:,}",
            where=source.path,
            fix="choose another --row",
        )
    return Preview(layout, tuple(found))


class Viewer:
    """Shows rows of one layout."""

    def __init__(self, layout: Layout, encoder: Encoder, max_length: int) -> None:
        self._layout = layout
        self._encoder = encoder
        self._max_length = max_length
        self._judge = RowChecker(layout)
        self._tried = False

    def view(self, number: int, row: Row | BadRow) -> Iterator[PreviewRow]:
        """A row's texts in pieces, or what is wrong with it."""
        errors = [each for each in self._judge(row, number) if CODES[each.code].level == "error"]
        if errors or isinstance(row, BadRow):
            yield PreviewRow(number, "row", fault=f"{errors[0].field or 'the row'}: {errors[0].message}")
            return
        try:
            canonical = convert(row, self._layout)
            if not self._tried:
                self._encoder.try_on([canonical])
                self._tried = True
            rendered = self._encoder.render(canonical)
        except ModelError:  # the template is refused
            raise
        except Exception as error:  # a chat template is a program and may raise anything (test_preview.py)
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            yield PreviewRow(number, "row", fault=f"can't be rendered: {said}")
            return
        names = ("chosen", "rejected") if len(rendered) == 2 else ("row",)
        for name, each in zip(names, rendered, strict=True):
            yield self._one(number, name, each)

    def _one(self, number: int, name: str, rendered: Rendered) -> PreviewRow:
        [encoded] = self._encoder.encode([rendered])
        offsets = self._encoder.offsets(rendered)
        marks = self._encoder.marks
        limit = self._max_length
        kinds = [
            (label != IGNORED_LABEL and place < limit, token in marks, place >= limit)
            for place, (token, label) in enumerate(zip(encoded.ids, encoded.labels, strict=True))
        ]
        pieces, at = [], 0
        for (loss, special, beyond), run in groupby(range(len(kinds)), key=kinds.__getitem__):
            end = max(at, *(offsets[index][1] for index in run))
            pieces.append(Piece(rendered.text[at:end], loss, special, beyond))
            at = end
        learned = sum(loss for loss, _, _ in kinds)
        num_cut = max(0, len(kinds) - limit)
        is_prompt = self._layout.kind == "prompts"
        return PreviewRow(number, name, tuple(pieces), len(kinds), learned, num_cut, is_prompt)
