"""What has been found out about a part of a data set. Parts add up: the sum of the shards is the whole."""

from __future__ import annotations

import io
import json
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.batches import Batch, regular
from tunesmith.data.checks.balance import Balance
from tunesmith.data.checks.rows import GROUPS, Group, RowChecker
from tunesmith.data.checks.screen import Screen
from tunesmith.data.checks.signatures import Signatures, concatenate, sign
from tunesmith.data.checks.texts import RowTexts, texts_of
from tunesmith.data.checks.tokens import TokenChecker, TokenCounts
from tunesmith.data.findings import CODES, Finding, FindingLog
from tunesmith.data.layout import Layout
from tunesmith.data.statistics import Lengths, Statistics
from tunesmith.errors import DataError
from tunesmith.runs.files import write_bytes_whole

VERSION = 1
# Codes of rows that can't be converted, or not into what their author meant.
UNREADABLE = frozenset(code for code, meaning in CODES.items() if code < "D100" and meaning.level == "error")


@dataclass
class Partial:
    """Counts, findings, statistics and signatures of the rows that were read."""

    layout: Layout
    method: str
    num_rows: int = 0
    first_row: int | None = None
    # The first row of each file, where the data are several.
    files: dict[str, int] = field(default_factory=dict)
    # Columns that the rows from which the format was told don't have, and the first row that does.
    late: dict[str, int] = field(default_factory=dict)
    # Index and number of the shard, and how it was checked, which all shards have to agree in.
    shard: tuple[int, int] = (0, 1)
    checked: dict[str, Any] = field(default_factory=dict)
    log: FindingLog = field(default_factory=FindingLog)
    statistics: Statistics = field(default_factory=Statistics)
    balance: Balance = field(default_factory=Balance)
    tokens: TokenCounts | None = None
    signatures: list[Signatures] = field(default_factory=list)
    evaluation: list[Signatures] = field(default_factory=list)
    # Rows with structural errors: they can't be converted. Not part of what a shard keeps.
    bad_rows: array[int] = field(default_factory=lambda: array("q"))

    def merge(self, other: Partial) -> None:
        """Take in the next part of the same data.

        Raises:
            DataError: the parts were read in different ways.
        """
        if (self.layout.columns, self.method) != (other.layout.columns, other.method):
            raise DataError(
                f"the parts don't fit together: one reads {self.method} from {dict(self.layout.columns)}, "
                f"another {other.method} from {dict(other.layout.columns)}",
                where="--merge",
                fix="validate all shards with the same --method and --map",
            )
        self.num_rows += other.num_rows
        self.files |= other.files
        self.late = _earliest(self.late, other.late)
        self.log.merge(other.log)
        self.statistics.merge(other.statistics)
        self.balance.merge(other.balance)
        if self.tokens is not None and other.tokens is not None:
            self.tokens.merge(other.tokens)
        self.signatures += other.signatures
        self.evaluation = self.evaluation or other.evaluation

    def save(self, path: Path) -> None:
        """Write the part to one file, which `load` reads."""
        meta = {
            "version": VERSION, "layout": self.layout.as_dict(), "method": self.method,
            "num_rows": self.num_rows,
            "first_row": self.first_row, "files": self.files, "late": self.late,
            "shard": self.shard, "checked": self.checked,
            "counts": dict(self.log.counts),
            "findings": [[each.code, each.row, each.field, each.message] for each in self.log.kept()],
            "balance": asdict(self.balance), "sample": self.statistics.sample,
            "tokens": self.tokens.as_meta() if self.tokens else None,
        }  # fmt: skip
        arrays = {"meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)}
        lengths = {"characters": self.statistics.characters, "turns": self.statistics.turns}
        if self.tokens:
            lengths |= {"tokens": self.tokens.lengths, "shares": self.tokens.shares}
        for name, each in lengths.items():
            arrays |= {f"{name}.counts": each.counts, f"{name}.sums": np.array([each.maximum, each.total])}
        for name, parts in (("rows", self.signatures), ("evaluation", self.evaluation)):
            if parts:
                signed = concatenate(parts).to_arrays()
                arrays |= {f"{name}.{key}": value for key, value in signed.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_bytes_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Partial:
        """The part that `save` wrote.

        Raises:
            DataError: the file is no such part.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            meta = json.loads(arrays.pop("meta").tobytes())
            if meta["version"] != VERSION:
                raise ValueError(f"version {meta['version']}")
            return cls._from(meta, arrays)
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(
                f"{path} is no shard that can be merged",
                where=str(path),
                fix="give the files that tunesmith validate --shard wrote",
            ) from None

    @classmethod
    def _from(cls, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Partial:
        def lengths(name: str) -> Lengths:
            maximum, total = arrays[f"{name}.sums"].tolist()
            return Lengths(arrays[f"{name}.counts"], maximum, total)

        def signed(name: str) -> list[Signatures]:
            found = {
                key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(name)
            }
            return [Signatures.from_arrays(found)] if found else []

        kept = [meta[name] for name in ("method", "num_rows", "first_row", "files", "late")]
        part = cls(Layout.from_dict(meta["layout"]), *kept)
        part.shard, part.checked = tuple(meta["shard"]), meta["checked"]
        part.log.restore(meta["counts"], (Finding(*each) for each in meta["findings"]))
        sample = [(rank, text) for rank, text in meta["sample"]]
        part.statistics = Statistics(lengths("characters"), lengths("turns"), sample)
        part.balance = Balance(**meta["balance"])
        if meta["tokens"]:
            part.tokens = TokenCounts.from_meta(meta["tokens"], lengths("tokens"), lengths("shares"))
        part.signatures, part.evaluation = signed("rows"), signed("evaluation")
        return part


def merged(parts: list[Partial]) -> Partial:
    """The sum of the parts of one data set, whatever their order.

    Raises:
        DataError: there is none, one is missing or doubled, or they don't belong together.
    """
    if not parts:
        raise DataError("there is no shard to merge", where="--merge", fix="give the files of all shards")
    number = parts[0].shard[1]
    given = sorted(part.shard for part in parts)
    if given != [(index, number) for index in range(number)]:
        missing = [index for index in range(number) if (index, number) not in given]
        said = f"shard {missing[0]} of {number} is missing" if missing else "a shard is given twice"
        raise DataError(said, where="--merge", fix="give the file of each shard once")
    different = next((part for part in parts if part.checked != parts[0].checked), None)
    if different:
        one, other = (dict(sorted(part.checked.items())) for part in (parts[0], different))
        raise DataError(
            f"the shards were checked in different ways: {one} and {other}",
            where="--merge",
            fix="validate all shards with the same options",
        )
    whole, *others = sorted(parts, key=lambda part: -1 if part.first_row is None else part.first_row)
    for part in others:
        whole.merge(part)
    return whole


@dataclass(frozen=True)
class Checks:
    """What to look for."""

    groups: frozenset[Group] = GROUPS
    duplicates: bool = True
    tokens: TokenChecker | None = None


def check_batches(
    batches: Iterable[Batch],
    layout: Layout,
    method: str,
    checks: Checks,
    *,
    known: Collection[str] = (),
    stream: Callable[[Finding], None] | None = None,
) -> Partial:
    """Read batches and check their rows: the columns are screened, and the rows that they flag are judged.

    `known` are the columns of the rows from which the format was told.
    """
    part = Partial(layout, method, log=FindingLog(stream))
    if checks.tokens:
        part.tokens = TokenCounts(checks.tokens.max_length)
    screen, judge = Screen(layout, checks.groups), RowChecker(layout, checks.groups)
    with ThreadPoolExecutor(1) as beside:
        for batch in read_ahead(batches):
            # What the judge needs and what the statistics need are found side by side.
            texts = beside.submit(texts_of, batch, layout)
            bad = _judge(batch, part, screen, judge)
            part.late = _earliest(part.late, _late_columns(batch, known) if known else {})
            _take_in(batch, part, checks, texts.result(), bad)
    return part


def _judge(batch: Batch, part: Partial, screen: Screen, judge: RowChecker) -> set[int]:
    """The indices of the rows that can't be converted; all findings go into the log."""
    suspects = list(range(batch.num_rows)) if batch.table is None else screen.suspects(batch.table)
    bad = set()
    for index, row in zip(suspects, batch.rows(suspects), strict=True):
        found = judge(row, batch.first_row + index)
        part.log.extend(found)
        if any(finding.code in UNREADABLE for finding in found):
            bad.add(index)
    part.bad_rows.extend(batch.first_row + index for index in sorted(bad))
    return bad


def _late_columns(batch: Batch, known: Collection[str]) -> dict[str, int]:
    """Columns beside the known ones, each with the first row that fills it."""
    if batch.table is not None:
        new = [name for name in batch.table.column_names if name not in known]
        filled = {name: np.flatnonzero(batch.table.column(name).is_valid()) for name in new}
        return {name: batch.first_row + int(rows[0]) for name, rows in filled.items() if len(rows)}
    found: dict[str, int] = {}
    for number, row in enumerate(batch.rows(), batch.first_row):
        for name, value in row.items() if isinstance(row, dict) else ():
            if name not in known and value is not None:
                found.setdefault(str(name), number)
    return found


def _earliest(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: min(each[name] for each in (one, other) if name in each) for name in {**one, **other}}


def _take_in(batch: Batch, part: Partial, checks: Checks, texts: RowTexts, bad: set[int]) -> None:
    part.num_rows += batch.num_rows
    part.first_row = batch.first_row if part.first_row is None else part.first_row
    part.balance.add(texts)
    part.statistics.add_texts(batch.first_row, texts.prompts, texts.answers, texts.turns)
    if checks.duplicates:
        part.signatures.append(_signed(batch, texts))
    if checks.tokens and part.tokens is not None:
        part.log.extend(checks.tokens.check(batch, bad, part.tokens))


def read_ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, the next one read and parsed by a thread while one is worked on."""
    left = chain.from_iterable(regular(batch) for batch in batches)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, left, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, left, None)
            yield batch


def sign_batches(batches: Iterable[Batch], layout: Layout) -> list[Signatures]:
    """Signatures of the rows of batches, to compare another data set with."""
    return [_signed(batch, texts_of(batch, layout)) for batch in batches]


def _signed(batch: Batch, texts: RowTexts) -> Signatures:
    numbers = np.arange(batch.first_row, batch.first_row + batch.num_rows, dtype=np.int64)
    return sign(numbers, texts.prompts, texts.answers, texts.rest)
