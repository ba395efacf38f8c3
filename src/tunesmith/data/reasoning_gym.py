"""`reasoning_gym:TASK,...` as a data set: rows made from a seed, kept in the cache of `datasets`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tunesmith.config.run_config import DatasetSource
from tunesmith.errors import DataError, TunesmithError
from tunesmith.rewards.reasoning_gym import PREFIX, check_task, parse_source, rows_of, settings_text

if TYPE_CHECKING:
    from datasets import Dataset

_COLUMNS = {
    "question": "string", "answer": "string", "task": "string", "entry": "int64", "settings": "string",
}  # fmt: skip
# Entries by which a task is told to know answers: where none of them has one, an empty column would say that
# they were lost, and conversations could not be made of it anyway.
_LOOKED_AT = 3
# Entries asked for at once: few, for a slow task takes half a second for each.
_BATCH = 64


def is_reasoning_gym(path: str) -> bool:
    """True when `path` names a task of reasoning-gym."""
    return path.startswith(PREFIX)


def meant(path: str) -> str | None:
    """The task that a misspelt `reasoninggym:TASK` means; None where nothing of the kind is meant."""
    said, colon, task = path.partition(":")
    plain = said.strip().lower().replace("-", "_").replace(" ", "_")
    near = difflib.get_close_matches(plain, [PREFIX.removesuffix(":")], n=1, cutoff=0.8)
    return f"{PREFIX}{task.strip()}" if colon and near else None


def open_task(source: DatasetSource) -> Dataset:
    """The rows of a task, of which only those that split and max_rows leave are made.

    Columns: `question`, `answer` (none for tasks that know no right answer, such as rush_hour), and `task`,
    `entry` and `settings`, by which the reward makes the entry again. The same source gives the same rows in
    every process.

    Raises:
        DataError: there is no such task or setting, a value is not taken, or an entry can't be made.
        MissingPackageError: reasoning-gym is not installed.
    """
    import datasets

    if source.config:
        raise DataError(
            f"a configuration, {source.config!r}, has no meaning for a task of reasoning_gym",
            where=source.path,
            fix=f"give settings after the task: {PREFIX}chain_sum,max_terms=3",
        )
    task, settings = parse_source(source.path)
    check_task(task, settings, source.path)
    parts = datasets.ReadInstruction.from_spec(source.split).to_absolute({"train": settings["size"]})
    spans = _first(
        [(part.from_ or 0, settings["size"] if part.to is None else part.to) for part in parts],
        source.max_rows,
    )
    if not spans:
        return datasets.Dataset.from_dict({})
    columns = dict(_COLUMNS)
    start, stop = spans[0]
    looked_at = rows_of(task, settings, range(start, min(start + _LOOKED_AT, stop)), source.path)
    if not any(row["answer"] for row in looked_at):
        del columns["answer"]
    asked: dict[str, Any] = {
        "path": source.path,
        "spans": tuple(spans),
        "columns": tuple(columns),
        # The cache is found by these arguments: rows of another version are other rows. Tuples, because lists
        # are taken for files to be shared out.
        "made_by": settings_text(settings),
    }
    features = datasets.Features({name: datasets.Value(kind) for name, kind in columns.items()})
    try:
        return datasets.Dataset.from_generator(_rows, features, gen_kwargs=asked)
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, TunesmithError):
            raise error.__cause__ from None
        raise


def _rows(
    path: str, spans: tuple[tuple[int, int], ...], columns: tuple[str, ...], made_by: str
) -> Iterator[dict[str, Any]]:
    task, settings = parse_source(path)
    for start, stop in spans:
        for first in range(start, stop, _BATCH):
            for row in rows_of(task, settings, range(first, min(first + _BATCH, stop)), path):
                yield {name: row[name] for name in columns}


def _first(spans: list[tuple[int, int]], max_rows: int | None) -> list[tuple[int, int]]:
    """The part of `spans` that holds their first `max_rows` entries."""
    kept, left = [], max_rows
    for start, stop in spans:
        stop = stop if left is None else min(stop, start + left)
        if start < stop:
            kept.append((start, stop))
            left = None if left is None else left - (stop - start)
    return kept
