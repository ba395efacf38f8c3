"""Any data set as numbered batches of rows: files read in place, everything else through `datasets`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.config.run_config import DatasetSource
from tunesmith.data.batches import BATCH_ROWS, Batch, table_batch
from tunesmith.data.checks.rows import BadRow, Row
from tunesmith.data.layout import MISSING, get_path
from tunesmith.data.readers import read_file
from tunesmith.data.sources import (
    LOADERS,
    no_rows,
    open_dataset,
    refuse_other_split,
    refuse_strange_split,
    sentence,
)
from tunesmith.errors import DataError, TunesmithError

if TYPE_CHECKING:
    from datasets import Dataset

# Rows that are looked at to tell the format.
SAMPLE_ROWS = 200
_READ_IN_PLACE = frozenset(LOADERS) - {".arrow"}


@dataclass(frozen=True)
class RowSource:
    """The rows of one source: of `files` that are read in place, or of a `dataset`.

    `ranges` are the rows of the files that split and max_rows leave, None for all. A row's number is its
    place in the files, or in the dataset. `starts` are the first rows of the files that were read so far.
    """

    source: DatasetSource
    files: tuple[Path, ...] = ()
    dataset: Dataset | None = None
    ranges: tuple[tuple[int, int], ...] | None = None
    starts: dict[Path, int] = field(default_factory=dict, compare=False)

    @property
    def num_bytes(self) -> int | None:
        """Size of the files, to tell how far a reader is; None for a data set."""
        return sum(path.stat().st_size for path in self.files) if self.files else None

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """All batches in order, with only `columns` where the format can do that.

        Raises:
            DataError: a file can't be read at all.
        """
        if self.ranges is None:
            yield from self._whole(columns)
        for start, stop in self.ranges or ():
            yield from _only(self._whole(columns), start, stop)

    def shard(self, index: int, number: int, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """The batches of shard `index` (0-based) of `number`: consecutive rows, all shards of a size."""
        total = self.count()
        start, stop = total * index // number, total * (index + 1) // number
        return _only(self.batches(columns), start, stop, by_place=True)

    def count(self) -> int:
        """The number of rows."""
        if self.dataset is not None:
            return len(self.dataset)
        if self.ranges is not None:
            return sum(stop - start for start, stop in self.ranges)
        return sum(batch.num_rows for batch in self._whole([]))

    def sample(self, named: Iterable[str] = ()) -> list[Row | BadRow]:
        """The first rows, to tell the format by, and for each column in `named` a row that has it."""
        rows: list[Row | BadRow] = []
        for batch in self.batches():
            rows += batch.rows(range(min(batch.num_rows, SAMPLE_ROWS - len(rows))))
            if len(rows) >= SAMPLE_ROWS:
                break
        left = {name for name in named if not any(_has(row, name) for row in rows)}
        for _, row in self.rows() if left else ():
            if any(_has(row, name) for name in left):
                rows.append(row)
                left = {name for name in left if not _has(row, name)}
                if not left:
                    break
        return rows

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """All rows as Python has them, with their numbers."""
        for batch in self.batches():
            yield from enumerate(batch.rows(), batch.first_row)

    def rows_at(self, numbers: Sequence[int]) -> Iterator[tuple[int, Row | BadRow]]:
        """The rows with these numbers, which are sorted; batches without any are not parsed."""
        left = list(numbers)
        for batch in self.batches():
            end = batch.first_row + batch.num_rows
            here = [number for number in left if batch.first_row <= number < end]
            yield from zip(here, batch.rows([number - batch.first_row for number in here]), strict=True)
            left = [number for number in left if number not in here]
            if not left:
                return

    def _whole(self, columns: Sequence[str] | None) -> Iterator[Batch]:
        if self.dataset is not None:
            yield from _dataset_batches(self.dataset, columns)
        first = 0
        for path in self.files:
            try:
                end = self.starts[path] = first
                for batch in read_file(path, columns):
                    batch.first_row += first
                    end = batch.first_row + batch.num_rows
                    yield batch
                first = end
            except TunesmithError:
                raise
            except Exception as error:  # pyarrow and csv raise many kinds; each a sentence (test_sources.py)
                raise sentence(error, self.source) from error


def _has(row: Row | BadRow, path: str) -> bool:
    return get_path(row, path) is not MISSING


def open_rows(source: DatasetSource) -> RowSource:
    """The rows of `source`, nothing read yet of a file.

    Raises:
        DataError: nothing is there, or it is of no kind that can be read.
        DownloadError: the Hub can't be reached, or refuses.
    """
    try:
        path = Path(source.path).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError):  # a name too long, a home that doesn't exist: `open_dataset` says so
        return RowSource(source, dataset=open_dataset(source))
    if is_file and path.suffix.lower() in _READ_IN_PLACE:
        refuse_strange_split(source)
        refuse_other_split(source, ["train"])
        if path.stat().st_size == 0:
            raise DataError(f"{path.name} is empty", where=str(path), fix="write at least one row into it")
        whole = RowSource(source, (path,))
        return replace(whole, ranges=_ranges(whole))
    if is_folder and source.split == "train" and not source.config and not source.max_rows:
        files = _files_of(path)
        if files:
            return RowSource(source, files)
    return RowSource(source, dataset=open_dataset(source))


def _ranges(rows: RowSource) -> tuple[tuple[int, int], ...] | None:
    """The row ranges that split and max_rows leave of the files; None for all of them.

    Raises:
        DataError: the slice makes no sense, or leaves nothing.
    """
    source = rows.source
    if source.split == "train" and not source.max_rows:
        return None
    import datasets

    total = rows.count()
    try:
        parts = datasets.ReadInstruction.from_spec(source.split).to_absolute({"train": total})
    except Exception as error:  # `datasets` raises many kinds on odd slices (test_sources.py)
        raise sentence(error, source) from error
    ranges, left = [], source.max_rows or total
    for part in parts:
        start = part.from_ or 0
        stop = min(total if part.to is None else part.to, start + left)
        if start < stop:
            ranges.append((start, stop))
            left -= stop - start
    if not ranges:
        raise no_rows(source)
    return tuple(ranges)


def _files_of(folder: Path) -> tuple[Path, ...]:
    """The files that `datasets` takes for the train split of a folder; none where it has to read them."""
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return ()
    import datasets

    try:
        found: Any = datasets.load_dataset_builder(str(folder.resolve())).config.data_files
        paths = tuple(Path(name) for name in found["train"])
        every = {Path(name).resolve() for names in found.values() for name in names}
    except Exception:  # whatever is wrong with the folder, `open_dataset` says it (test_sources.py)
        return ()
    passed_over = [
        path.name
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in LOADERS and not path.name.startswith(".") and path.resolve() not in every
    ]
    if passed_over:
        raise DataError(
            f"the folder {folder} holds files of several kinds, and {passed_over[0]} would not be read",
            where=str(folder),
            fix="give a folder of one kind of files, or name the file",
        )
    in_place = all(path.suffix.lower() in _READ_IN_PLACE and path.stat().st_size for path in paths)
    return paths if in_place else ()


def _dataset_batches(dataset: Dataset, columns: Sequence[str] | None) -> Iterator[Batch]:
    if columns:
        dataset = dataset.select_columns([name for name in columns if name in dataset.column_names])
    arrow = dataset.with_format("arrow")
    for first in range(0, len(dataset), BATCH_ROWS):
        yield table_batch(arrow[first : first + BATCH_ROWS], first)


def _only(batches: Iterator[Batch], start: int, stop: int, *, by_place: bool = False) -> Iterator[Batch]:
    """The rows from `start` to `stop`, by their numbers or, `by_place`, counted from the first batch on.

    What lies outside is never parsed.
    """
    seen = 0
    for batch in batches:
        first = seen if by_place else batch.first_row
        seen += batch.num_rows
        if first >= stop:
            return
        low, high = max(start - first, 0), min(stop - first, batch.num_rows)
        if low < high:
            yield batch if (low, high) == (0, batch.num_rows) else batch.slice(low, high)
