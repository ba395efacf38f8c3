"""Validation from end to end: open the data, tell its format, check every row, conclude."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

from tunesmith.config.run_config import DatasetSource
from tunesmith.data.batches import Batch
from tunesmith.data.checks.reward_report import RewardReport
from tunesmith.data.checks.rewards import check_reward
from tunesmith.data.checks.rows import BadRow, Row, RowChecker
from tunesmith.data.checks.tokens import TokenChecker
from tunesmith.data.convert import convert
from tunesmith.data.findings import Finding, FindingLog
from tunesmith.data.formats import detect
from tunesmith.data.layout import Layout
from tunesmith.data.misfit import advice, guess, misfit, no_layout
from tunesmith.data.partial import Checks, Partial, check_batches, sign_batches
from tunesmith.data.report import ModelFit, Report, conclude
from tunesmith.data.row_source import SAMPLE_ROWS, RowSource, open_rows
from tunesmith.data.tokens import Encoder
from tunesmith.errors import DataError

# Tokenising is the slow part: beyond so many rows a seeded sample of so many is taken unless told otherwise.
TOKEN_ROWS = 200_000
REWARD_ROWS = 64


@dataclass(frozen=True)
class Request:
    """What to validate and how; `model` and `max_length` bring the token checks."""

    source: DatasetSource
    method: str
    given: Mapping[str, str] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()
    checks: Checks = field(default_factory=Checks)
    model: ModelFit | None = None
    max_length: int = 1024
    token_rows: int = TOKEN_ROWS
    evaluation: DatasetSource | None = None
    rewards: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    shard: tuple[int, int] | None = None
    merges: bool = False
    stream: Callable[[Finding], None] | None = None
    # Called with every batch that was read and the size of the files in bytes, where that is known.
    progress: Callable[[Batch, int | None], None] | None = None


def validate(request: Request) -> Report:
    """The report on a data set.

    Raises:
        DataError, DownloadError: it can't be opened or read at all.
        ConfigError: the given columns don't exist.
    """
    rows = open_rows(request.source)
    layout, sample = told_format(rows, request.method, request.given)
    if layout is None:
        return _without_format(request, rows, sample)
    part = check(request, rows, layout, column_names(sample))
    reports, found = _rewards(request, rows, layout)
    # An empty reference was found already, on all rows and not only those that the reward was called with.
    known = {each.row for each in part.log.kept() if each.code == "D106"}
    part.log.extend(each for each in found if not (each.code == "D106" and each.row in known))
    return conclude(request.source.path, part, allowed=request.allowed, model=request.model, rewards=reports)


def _without_format(request: Request, rows: RowSource, sample: list[Row | BadRow]) -> Report:
    """The report on rows whose columns fit no format of the method, or that can't be read at all."""
    log = FindingLog(request.stream)
    columns = column_names(sample)
    if not sample:
        log.add(Finding("D306", None, None, "there is no row in it"))
    elif columns or not all(isinstance(row, BadRow) for row in sample):
        said = no_layout(request.method, columns, sample)
        log.add(Finding("D107", None, None, said, advice(request.method, columns)))
    for number, row in rows.rows() if sample else ():
        if isinstance(row, BadRow):
            log.add(Finding("D001", number, None, str(row)))
    num_rows = rows.count() if sample else 0
    guessed = guess(request.method, columns)
    path = request.source.path
    return Report(path, request.method, num_rows, log, allowed=request.allowed, guess=guessed)


def check_shard(request: Request) -> Partial:
    """What is found in one shard, to be merged with the others.

    Raises:
        DataError: the columns fit no format of the method; or as `validate`.
    """
    rows = open_rows(request.source)
    layout, sample = told_format(rows, request.method, request.given)
    if layout is None:
        raise misfit(request.method, column_names(sample), sample, request.source.path)
    return check(request, rows, layout, column_names(sample))


def told_format(
    rows: RowSource, method: str, given: Mapping[str, str]
) -> tuple[Layout | None, list[Row | BadRow]]:
    """The layout for a method, and the rows that it was told from."""
    sample = rows.sample(given.values())
    return detect(method, column_names(sample), sample, given), sample


def given_for(rows: RowSource, given: Mapping[str, str]) -> Mapping[str, str]:
    """`given` where rows have its columns, else nothing: evaluation data may be laid out in another way."""
    names = column_names(rows.sample())
    return given if all(path.split(".")[0] in names or path in names for path in given.values()) else {}


def column_names(sample: list[Row | BadRow]) -> list[str]:
    """All columns of a sample, in the order they appear."""
    names = chain.from_iterable(row for row in sample if isinstance(row, dict))
    return [str(name) for name in dict.fromkeys(names)]


def check(request: Request, rows: RowSource, layout: Layout, known: list[str]) -> Partial:
    """Every row of the request's data, or of its shard, checked."""
    checks = request.checks
    if request.model:
        checker = _token_checker(request, rows, layout, request.model)
        checks = replace(checks, tokens=checker)
    batches = _watched(request, _batches(request, rows, layout), rows.num_bytes)
    part = check_batches(batches, layout, request.method, checks, known=known, stream=request.stream)
    part.shard = request.shard or (0, 1)
    part.checked = {
        "data": request.source.path, "split": request.source.split, "duplicates": request.checks.duplicates,
        "model": request.model.name if request.model else None,
        "max_length": request.max_length if request.model else None,
    }  # fmt: skip
    if len(rows.files) > 1:
        part.files = {str(path): first for path, first in rows.starts.items()}
    if request.evaluation:
        held_out = open_rows(request.evaluation)
        other, sample = told_format(held_out, request.method, given_for(held_out, request.given))
        if other is None:
            error = misfit(request.method, column_names(sample), sample, request.evaluation.path)
            raise DataError(f"evaluation: {error.message}", where=error.where, fix=error.fix)
        part.evaluation = sign_batches(held_out.batches(other.root_columns), other)
    return part


def _batches(request: Request, rows: RowSource, layout: Layout) -> Iterator[Batch]:
    columns = None if layout.kind == "prompts" else layout.root_columns
    if request.shard is None:
        return rows.batches(columns)
    return rows.shard(*request.shard, columns=columns)


def _watched(request: Request, batches: Iterator[Batch], num_bytes: int | None) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        if request.progress:
            request.progress(batch, num_bytes)


def _token_checker(request: Request, rows: RowSource, layout: Layout, model: ModelFit) -> TokenChecker:
    total = rows.count() if request.token_rows else 0
    share = min(1.0, request.token_rows / total) if total else 1.0
    return TokenChecker(Encoder(model.tokenizer, layout.kind), layout, request.max_length, share=share)


def _rewards(request: Request, rows: RowSource, layout: Layout) -> tuple[list[RewardReport], list[Finding]]:
    """Reward functions, called on the first rows."""
    reports: list[RewardReport] = []
    findings: list[Finding] = []
    if not request.rewards:
        return reports, findings
    judge = RowChecker(layout)
    sound = [
        (number, convert(row, layout))
        for number, row in islice(rows.rows(), SAMPLE_ROWS)
        if not isinstance(row, BadRow) and not any(each.level == "error" for each in judge(row, number))
    ][:REWARD_ROWS]
    for name, function in request.rewards.items():
        report, found = check_reward(
            function,
            name,
            [row for _, row in sound],
            row_numbers=[number for number, _ in sound],
            reference=layout.columns.get("reference"),
        )
        reports += [report] if report else []
        findings += found
    return reports, findings
