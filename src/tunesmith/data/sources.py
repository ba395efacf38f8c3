"""Opening a dataset: Hub ids by the real loaders, local files and folders, `save_to_disk` folders, tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.config.run_config import DatasetSource
from tunesmith.data.reasoning_gym import is_reasoning_gym, meant, open_task
from tunesmith.errors import DataError, DownloadError, TunesmithError

if TYPE_CHECKING:
    from datasets import Dataset

LOADERS = {
    ".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".arrow": "arrow",
}  # fmt: skip
_SPLIT = re.compile(r"\w+(\.\w+)*(\[[^\[\]]*\])?(\+\w+(\.\w+)*(\[[^\[\]]*\])?)*")


def open_dataset(source: DatasetSource) -> Dataset:
    """The rows of one source, its split and row limit applied.

    Raises:
        DataError: nothing is there, the split or configuration doesn't exist, or it can't be parsed.
        DownloadError: the Hub can't be reached, or refuses.
        MissingPackageError: a task of reasoning-gym is named, which is not installed.
    """
    import datasets

    datasets.disable_progress_bars()
    refuse_strange_split(source)
    try:
        path = Path(source.path).expanduser()
        if path.is_file():
            dataset = _open_file(path, source)
        elif path.is_dir():
            dataset = _open_folder(path, source)
        elif is_reasoning_gym(source.path):
            refuse_other_split(source, ["train"])
            dataset = open_task(source)
        elif near := meant(source.path):
            raise DataError(
                f"there is no dataset {source.path}; did you mean {near}?",
                where=source.path,
                fix=f"write {near}",
            )
        elif _looks_local(source.path):
            raise DataError(
                f"there is no file or folder {source.path}",
                where=str(Path.cwd()),
                fix="check the path to the dataset",
            )
        else:
            dataset = datasets.load_dataset(source.path, source.config, split=source.split)
    except TunesmithError:
        raise
    except Exception as error:  # loaders raise dozens of kinds; each becomes a sentence (test_bad_input.py)
        raise sentence(error, source) from error
    if len(dataset) == 0:
        raise no_rows(source)
    return dataset.select(range(min(source.max_rows, len(dataset)))) if source.max_rows else dataset


def _open_file(path: Path, source: DatasetSource) -> Dataset:
    import datasets

    loader = LOADERS.get(path.suffix.lower())
    if loader is None:
        raise DataError(
            f"{path.name} is none of the files that can be read: {', '.join(LOADERS)}",
            where=str(path),
            fix="save it as one of these, JSON lines for example",
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path.name} is empty", where=str(path), fix="write at least one row into it")
    refuse_other_split(source, ["train"])
    return datasets.load_dataset(loader, data_files={"train": str(path)}, split=source.split)


def refuse_strange_split(source: DatasetSource) -> None:
    """Make sure that the split looks like one.

    Raises:
        DataError: it doesn't.
    """
    if not _SPLIT.fullmatch(source.split):
        raise DataError(f"{source.split!r} is no split", where=source.path, fix="write train or train[:1000]")


def _open_folder(path: Path, source: DatasetSource) -> Dataset:
    import datasets

    if (path / "dataset_dict.json").is_file():
        splits = datasets.load_from_disk(str(path))
        refuse_other_split(source, list(splits))
        return _slice(splits, source.split)
    if (path / "state.json").is_file():
        refuse_other_split(source, ["train"])
        return _slice({"train": datasets.load_from_disk(str(path))}, source.split)
    return datasets.load_dataset(str(path.resolve()), source.config, split=source.split)


def _slice(splits: Any, split: str) -> Dataset:
    """`split` with its slice (`train[:10%]`), as the Hub loader reads it, of datasets in memory."""
    import datasets

    sizes = {name: len(rows) for name, rows in splits.items()}
    parts = datasets.ReadInstruction.from_spec(split).to_absolute(sizes)
    chosen = [
        splits[part.splitname].select(range(part.from_ or 0, _end(part.to, sizes[part.splitname])))
        for part in parts
    ]
    return chosen[0] if len(chosen) == 1 else datasets.concatenate_datasets(chosen)


def _end(to: int | None, size: int) -> int:
    return size if to is None else to


def refuse_other_split(source: DatasetSource, known: list[str]) -> None:
    """Make sure that every split that `source` names is known.

    Raises:
        DataError: one isn't.
    """
    names = [part.split("[")[0] for part in source.split.split("+")]
    missing = [name for name in names if name not in known]
    if missing:
        raise DataError(
            f"there is no split {missing[0]!r}; there is {', '.join(known)}",
            where=source.path,
            fix=f"use {known[0]}",
        )


def _looks_local(path: str) -> bool:
    return (
        path.startswith((".", "/", "~", "\\")) or path.count("/") > 1 or Path(path).suffix.lower() in LOADERS
    )


def sentence(error: Exception, source: DatasetSource) -> DataError | DownloadError:
    """One sentence for what a loader raised."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    causes = [error, error.__cause__, error.__context__]
    if "corresponds to no data" in str(error):
        return no_rows(source)
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if any(isinstance(cause, GatedRepoError) for cause in causes) or "gated" in text:
        return DownloadError(
            f"the dataset {source.path} is gated",
            where=f"https://huggingface.co/datasets/{source.path}",
            fix="ask for access on its page, then hf auth login",
        )
    if _is_offline(causes, text):
        return DownloadError(
            f"the dataset {source.path} is not here and the Hub can't be reached",
            where=source.path,
            fix="check the network (and HF_HUB_OFFLINE), or give a local file",
        )
    if any(isinstance(cause, RepositoryNotFoundError | DatasetNotFoundError) for cause in causes):
        return DownloadError(
            f"there is no dataset {source.path} on the Hub that you can read, and no file of that name here",
            where=source.path,
            fix="check the name; a private dataset needs hf auth login",
        )
    if "Unknown split" in text or ("split" in text.lower() and "not" in text.lower()):
        return DataError(
            f"there is no split {source.split!r}: {text}",
            where=source.path,
            fix="set dataset_train_split (or dataset_test_split) to one that is there",
        )
    if "BuilderConfig" in text or "Config name is missing" in text:
        return DataError(text, where=source.path, fix="set dataset_config")
    # What versions of `datasets` say of a folder without data.
    if any(said in text for said in ("data files found", "any data files", "No task.toml")):
        return DataError(
            f"the folder {source.path} holds no file that can be read",
            where=source.path,
            fix=f"put files into it that end in {', '.join(LOADERS)}",
        )
    if "nstruction" in text or "slice" in text.lower():
        return DataError(
            f"{source.split!r} is no split: {text}", where=source.path, fix="write train or train[:1000]"
        )
    root = error.__cause__ or error
    if "Couldn't cast" in str(root):
        told = " ".join(str(root).split())[:300]
        return DataError(
            f"{source.path} changes its columns or their types further down: {told}",
            where=source.path,
            fix="give all rows the same columns, and each column one type",
        )
    detail = str(root).splitlines()[0] if str(root) else type(root).__name__
    return DataError(
        f"{source.path[:200]} can't be read: {detail[:300]}",
        where=source.path[:200],
        fix="mend the file: one object or line a row, UTF-8",
    )


def no_rows(source: DatasetSource) -> DataError:
    """What to say of a source without rows."""
    return DataError(
        f"{source.path} has no rows in {source.split}",
        where=f"{source.path}, split {source.split}",
        fix="give it at least one row, or widen the slice",
    )


def _is_offline(causes: list[BaseException | None], text: str) -> bool:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    return any(
        isinstance(cause, ConnectionError | OfflineModeIsEnabled | LocalEntryNotFoundError)
        for cause in causes
    ) or ("Couldn't reach" in text or "offline" in text.lower())
