"""The data stage of a run: open, check, encode, cut, mix and split, with a count of all that was lost."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith.config.run_config import DatasetSource, RunConfig
from tunesmith.data.formats import detect_format
from tunesmith.data.sources import open_dataset, refuse_bad_text
from tunesmith.data.tokens import IGNORED_LABEL, Encoder
from tunesmith.errors import DataError, TunesmithError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class DataReport:
    """What the data stage found; counts are rows unless the name says tokens.

    `num_cut` and `num_dropped` are of what was read, the others of what is trained on: `num_ended` counts the
    rows whose last token to learn ends the answer, `mixture` the rows of each source.
    """

    formats: dict[str, str] = field(default_factory=dict)
    num_rows: int = 0
    num_eval_rows: int = 0
    num_tokens: int = 0
    num_loss_tokens: int = 0
    mean_length: float = 0.0
    longest: int = 0
    num_cut: int = 0
    num_dropped: int = 0
    num_ended: int = 0
    mixture: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as run.json keeps it."""
        return asdict(self)


@dataclass(frozen=True)
class PreparedData:
    """Datasets with the columns `input_ids` and `labels` (lists of token ids, at most max_length long)."""

    train: Dataset
    eval: Dataset | None
    report: DataReport


def prepare_data(config: RunConfig, tokenizer: Any) -> PreparedData:
    """Everything that will be trained and evaluated on, as token ids.

    Raises:
        DataError: no data, a row that can't be used, or nothing left to learn from.
        DownloadError: the Hub can't be reached, or refuses.
    """
    report = DataReport()
    sources = config.sources()
    train = _mix([_encode(each, config, tokenizer, report) for each in sources], sources, config.seed)
    if config.max_rows:
        train = train.select(range(min(config.max_rows, len(train))))
    evaluation = _evaluation_rows(config, tokenizer)
    if config.test_size:
        train, evaluation = _hold_out(train, config)
    train = _keep_learnable(train, config, report)
    report.fingerprint = fingerprint(train)
    if len(sources) > 1:
        taken = Counter(train["source"])
        report.mixture = {f"{each.path}#{index}": taken[index] for index, each in enumerate(sources)}
    if evaluation is not None:
        seen = DataReport()
        evaluation = _keep_learnable(evaluation, config, seen)
        report.num_eval_rows = len(evaluation)
        report.notes += [f"evaluation: {note}" for note in seen.notes]
        report.notes += _overlap(train, evaluation)
    keep = ["input_ids", "labels"]
    return PreparedData(
        train.select_columns(keep), None if evaluation is None else evaluation.select_columns(keep), report
    )


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 over the token ids and labels, in order: two runs on the same data have the same one."""
    digest = hashlib.sha256()
    for batch in dataset.select_columns(["input_ids", "labels"]).iter(batch_size=1000):
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            digest.update(array("q", [len(ids), *ids, *labels]).tobytes())
    return digest.hexdigest()


def _encode(source: DatasetSource, config: RunConfig, tokenizer: Any, report: DataReport) -> Dataset:
    dataset = open_dataset(source)
    where = f"{source.path}, split {source.split}"
    if len(dataset) == 0:
        raise DataError(f"{source.path} has no rows", where=where, fix="give a dataset with at least one row")
    columns = dataset.column_names
    format_name = detect_format(columns, source)
    report.formats[source.path] = format_name
    needed = {"messages": ["messages", "tools"], "prompt-completion": ["prompt", "completion", "tools"]}
    used = [name for name in needed.get(format_name, ["text"]) if name in columns]
    chosen = dataset.select_columns(used)
    refuse_bad_text(chosen, source)
    encoder = Encoder(tokenizer, format_name, config, source.path)
    try:
        return chosen.map(
            encoder, batched=True, with_indices=True, remove_columns=used, load_from_cache_file=False
        )
    except TunesmithError:
        raise
    except OSError as error:
        raise DataError(
            f"the rows of {source.path} can't be kept: {error.strerror or error}",
            where=where,
            fix="make room on the disk, or point HF_HOME at another one",
        ) from error


def _mix(parts: list[Dataset], sources: tuple[DatasetSource, ...], seed: int) -> Dataset:
    """One dataset: all rows in a seeded order, or by weight until a source runs out (no row twice).

    The column `source` says which one a row comes from.
    """
    import datasets

    if len(parts) == 1:
        return parts[0]
    named = [part.add_column("source", [index] * len(part)) for index, part in enumerate(parts)]
    # RunConfig holds that either every source has a weight or none has.
    weights = [source.weight for source in sources if source.weight is not None]
    if not weights:
        return datasets.concatenate_datasets(named).shuffle(seed=seed)
    shares = [weight / sum(weights) for weight in weights]
    return datasets.interleave_datasets(
        named, probabilities=shares, seed=seed, stopping_strategy="first_exhausted"
    )


def _evaluation_rows(config: RunConfig, tokenizer: Any) -> Dataset | None:
    import datasets

    if config.eval_dataset:
        sources = [DatasetSource(path=config.eval_dataset)]
    elif config.dataset_test_split:
        changes = {"split": config.dataset_test_split, "max_rows": None}
        sources = [each.model_copy(update=changes) for each in config.sources()]
    else:
        return None
    return datasets.concatenate_datasets(
        [_encode(source, config, tokenizer, DataReport()) for source in sources]
    )


def _hold_out(train: Dataset, config: RunConfig) -> tuple[Dataset, Dataset]:
    size = config.test_size or 0
    count = int(size) if size >= 1 else max(1, round(size * len(train)))
    if count >= len(train):
        raise DataError(
            f"test_size {size:g} leaves no row of {len(train)} to train on",
            where="test_size",
            fix="make it smaller",
        )
    halves = train.train_test_split(test_size=count, seed=config.seed)
    return halves["train"], halves["test"]


def _keep_learnable(dataset: Dataset, config: RunConfig, report: DataReport) -> Dataset:
    """The rows in which some token carries loss after the cut, and the counts of what was lost."""
    lengths = dataset["length"][:]
    ends = dataset["ends"][:]
    keep: list[int] = []
    for index, labels in enumerate(dataset["labels"]):
        learned = sum(label != IGNORED_LABEL for label in labels)
        if learned:
            keep.append(index)
            report.num_tokens += len(labels)
            report.num_loss_tokens += learned
    report.num_rows = len(keep)
    report.num_dropped = len(dataset) - len(keep)
    report.num_cut = sum(length > config.max_length for length in lengths)
    report.num_ended = sum(ends[index] for index in keep)
    report.longest = max(lengths, default=0)
    report.mean_length = round(report.num_tokens / max(1, len(keep)), 1)
    if not keep:
        raise DataError(
            f"no row keeps a token to learn: max_length {config.max_length} cuts all {len(dataset)} before",
            where="max_length",
            fix=f"set max_length to {report.longest} or more",
        )
    if report.num_cut:
        dropped = f"; {report.num_dropped} of them lose every token that carries loss and are dropped"
        report.notes.append(
            f"{report.num_cut} of {len(dataset)} rows are longer than max_length {config.max_length}"
            + " and are cut"
            + (dropped if report.num_dropped else "")
        )
    if not report.num_ended:
        report.notes.append(
            f"0 of {len(keep)} rows train a token that ends the answer: the model won't learn to stop"
        )
    return dataset if len(keep) == len(dataset) else dataset.select(keep)


def _overlap(train: Dataset, evaluation: Dataset) -> list[str]:
    """A note when rows to evaluate on are, token by token, rows that are trained on."""
    trained = {_row_hash(ids) for ids in train["input_ids"]}
    count = sum(_row_hash(ids) in trained for ids in evaluation["input_ids"])
    if not count:
        return []
    return [f"{count} of {len(evaluation)} evaluation rows are trained on too: their loss says little"]


def _row_hash(ids: list[int]) -> bytes:
    return hashlib.sha256(array("q", ids).tobytes()).digest()
