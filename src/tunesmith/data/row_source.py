"""Any data set as numbered batches of rows: files read in place, everything else through `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.config.run_config import DatasetSource
from tunesmith.data.checks.rows import BadRow, Row
from tunesmith.data.readers import BATCH_ROWS, Batch, read_file, table_batch
from tunesmith.data.sources import LOADERS, open_dataset, refuse_other_split, sentence
from tunesmith.errors import DataError, TunesmithError

if TYPE_CHECKING:
    from datasets import Dataset

# Rows that are looked at to tell the format.
SAMPLE_ROWS = 200
_READ_IN_PLACE = frozenset(LOADERS) - {".arrow"}


@dataclass(frozen=True)
class RowSource:
    """The rows of one source; `files` where they are read in place, `dataset` otherwise."""

    source: DatasetSource
    files: tuple[Path, ...] = ()
    dataset: Dataset | None = None

    @property
    def num_bytes(self) -> int | None:
        """Size of the files, to tell how far a reader is; None for a data set."""
        return sum(path.stat().st_size for path in self.files) if self.files else None

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """All batches in order, with only `columns` where the format can do that.

        Raises:
            DataError: a file can't be read at all.
        """
        batches = self._whole(columns)
        ranges = self._ranges()
        return batches if ranges is None else _only(batches, ranges)

    def count(self) -> int:
        """The number of rows."""
        if self.dataset is not None:
            return len(self.dataset)
        ranges = self._ranges()
        if ranges is not None:
            return sum(stop - start for start, stop in ranges)
        return self._count_whole()

    def sample(self) -> list[Row | BadRow]:
        """The first rows, to tell the format by."""
        rows: list[Row | BadRow] = []
        for batch in self.batches():
            rows += batch.rows(range(min(batch.num_rows, SAMPLE_ROWS - len(rows))))
            if len(rows) >= SAMPLE_ROWS:
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
            left = [number for number in left if number >= end]
            if not left:
                return

    def _whole(self, columns: Sequence[str] | None) -> Iterator[Batch]:
        if self.dataset is not None:
            yield from _dataset_batches(self.dataset, columns)
            return
        first = 0
        for path in self.files:
            try:
                end = first
                for batch in read_file(path, columns):
                    batch.first_row += first
                    end = batch.first_row + batch.num_rows
                    yield batch
                first = end
            except TunesmithError:
                raise
            except (
                Exception
            ) as error:  # pyarrow and csv raise many kinds; each a sentence (test_bad_input.py)
                raise sentence(error, self.source) from error

    def _count_whole(self) -> int:
        return sum(batch.num_rows for batch in self._whole([]))

    def _ranges(self) -> list[tuple[int, int]] | None:
        """The row ranges that split and max_rows leave of the files; None for all of them."""
        if self.dataset is not None or (self.source.split == "train" and not self.source.max_rows):
            return None
        import datasets

        total = self._count_whole()
        try:
            parts = datasets.ReadInstruction.from_spec(self.source.split).to_absolute({"train": total})
        except Exception as error:  # `datasets` raises many kinds on odd slices (test_sources.py)
            raise sentence(error, self.source) from error
        ranges = [(part.from_ or 0, total if part.to is None else part.to) for part in parts]
        return _limited(ranges, self.source.max_rows)


def open_rows(source: DatasetSource) -> RowSource:
    """The rows of `source`, nothing read yet of a file.

    Raises:
        DataError: nothing is there, or it is of no kind that can be read.
        DownloadError: the Hub can't be reached, or refuses.
    """
    path = Path(source.path).expanduser()
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError:  # a name too long: `open_dataset` says so
        is_file = is_folder = False
    if is_file and path.suffix.lower() in _READ_IN_PLACE:
        refuse_other_split(source, ["train"])
        if path.stat().st_size == 0:
            raise DataError(f"{path.name} is empty", where=str(path), fix="write at least one row into it")
        return RowSource(source, (path,))
    if is_folder and source.split == "train" and not source.config and not source.max_rows:
        files = _files_of(path)
        if files:
            return RowSource(source, files)
    return RowSource(source, dataset=open_dataset(source))


def _files_of(folder: Path) -> tuple[Path, ...]:
    """The files that `datasets` takes for the train split of a folder; none where it must read them itself."""
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return ()
    import datasets

    try:
        found: Any = datasets.load_dataset_builder(str(folder)).config.data_files
        paths = tuple(Path(name) for name in found["train"])
    except Exception:  # whatever is wrong with the folder, `open_dataset` says it (test_sources.py)
        return ()
    return (
        paths if all(path.suffix.lower() in _READ_IN_PLACE and path.stat().st_size for path in paths) else ()
    )


def _dataset_batches(dataset: Dataset, columns: Sequence[str] | None) -> Iterator[Batch]:
    if columns:
        dataset = dataset.select_columns([name for name in columns if name in dataset.column_names])
    if columns == []:
        yield from (_empty(first, dataset) for first in range(0, len(dataset), BATCH_ROWS))
        return
    arrow = dataset.with_format("arrow")
    for first in range(0, len(dataset), BATCH_ROWS):
        yield table_batch(arrow[first : first + BATCH_ROWS], first)


def _empty(first: int, dataset: Dataset) -> Batch:
    return Batch(first, min(BATCH_ROWS, len(dataset) - first), lambda: None, lambda indices: [], 0)


def _only(batches: Iterator[Batch], ranges: list[tuple[int, int]]) -> Iterator[Batch]:
    """The parts of the batches that lie in the ranges; what lies outside is never parsed."""
    end = max((stop for _, stop in ranges), default=0)
    for batch in batches:
        if batch.first_row >= end:
            return
        for start, stop in ranges:
            low = max(start - batch.first_row, 0)
            high = min(stop - batch.first_row, batch.num_rows)
            if low < high:
                yield batch if (low, high) == (0, batch.num_rows) else batch.slice(low, high)


def _limited(ranges: list[tuple[int, int]], max_rows: int | None) -> list[tuple[int, int]]:
    if max_rows is None:
        return ranges
    kept = []
    for start, stop in ranges:
        stop = min(stop, start + max_rows)
        kept.append((start, stop))
        max_rows -= stop - start
    return [each for each in kept if each[0] < each[1]]


def shard_of(
    rows: RowSource, index: int, number: int, columns: Sequence[str] | None = None
) -> Iterator[Batch]:
    """The batches of shard `index` (0-based) of `number`: consecutive rows, all shards of a size."""
    total = rows.count()
    start, stop = total * index // number, total * (index + 1) // number
    batches = rows.batches(columns)
    if rows.source.split == "train" and not rows.source.max_rows:
        return _only(batches, [(start, stop)])
    return _counted(batches, start, stop)


def _counted(batches: Iterator[Batch], start: int, stop: int) -> Iterator[Batch]:
    """Rows `start` to `stop` of what the batches hold, whatever numbers their rows have."""
    seen = 0
    for batch in batches:
        low, high = max(start - seen, 0), min(stop - seen, batch.num_rows)
        if low < high:
            yield batch.slice(low, high)
        seen += batch.num_rows
        if seen >= stop:
            return
