"""The data stage of a run: open, check, convert, encode, cut, mix and split, and count what was lost."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith.config.run_config import DatasetSource, RunConfig
from tunesmith.data.encoded_rows import EncodedSource, encode_source
from tunesmith.data.findings import CODES, FindingLog, known_codes
from tunesmith.data.partial import Partial
from tunesmith.data.report import ModelFit, conclude
from tunesmith.data.tokens import IGNORED_LABEL
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class DataReport:
    """What the data stage found; counts are rows unless the name says tokens.

    `num_cut` and `num_dropped` are of what was read, the others of what is trained on: `num_ended` counts the
    rows whose last token to learn ends the answer, `num_left_out` those whose faults were allowed and that
    can't be encoded, `mixture` the rows of each source.
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
    num_left_out: int = 0
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
    """Everything that will be trained and evaluated on, as token ids; every row is checked first.

    Raises:
        DataError: no data, findings that stand in the way of training, or nothing left to learn from.
        ConfigError: `allow` or `map` name what doesn't exist.
        DownloadError: the Hub can't be reached, or refuses.
    """
    known_codes(config.allow)
    report = DataReport()
    sources = config.sources()
    held_out = [encode_source(each, config, tokenizer, held_out=True) for each in _evaluation_sources(config)]
    parts = [encode_source(each, config, tokenizer) for each in sources]
    for source, part in zip(sources, parts, strict=True):
        report.formats[source.path] = part.checked.layout.name
        part.checked.evaluation = [each for other in held_out for each in other.checked.signatures]
        report.notes += verdict(source, part.checked, config, tokenizer)
    for part in held_out:
        report.notes += [
            f"evaluation: {note}" for note in verdict(part.source, part.checked, config, tokenizer)
        ]
    train = _mix([part.dataset for part in parts], sources, config.seed)
    report.num_left_out = sum(part.num_left_out for part in parts)
    if config.max_rows:
        train = train.select(range(min(config.max_rows, len(train))))
    evaluation = _evaluation_rows(held_out)
    if config.test_size:
        train, evaluation = _hold_out(train, config, report)
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
    keep = ["input_ids", "labels"]
    return PreparedData(
        train.select_columns(keep), None if evaluation is None else evaluation.select_columns(keep), report
    )


def verdict(source: DatasetSource, checked: Partial, config: RunConfig, tokenizer: Any) -> list[str]:
    """What a person should know of the source before it is trained on.

    Raises:
        DataError: it holds what can't be trained on, and that isn't allowed.
    """
    model = ModelFit(config.model, tokenizer, None)
    report = conclude(source.path, checked, allowed=config.allow, model=model)
    if not report.fit:
        raise _refused(source, report.log, report.blocking, config)
    counts = report.log.counts
    # What the cut costs is said in one sentence of its own (`_keep_learnable`).
    told = [code for code in counts if CODES[code].level != "info" and code not in ("D205", "D206")]
    allowed = dict.fromkeys(config.allow, " (allowed)")
    return [
        f"{code} {CODES[code].title}: {_first(report.log, code)}{allowed.get(code, '')}"
        for code in sorted(told)
    ]


def _refused(source: DatasetSource, log: FindingLog, blocking: list[str], config: RunConfig) -> DataError:
    first = next(each for each in log.kept() if each.code in blocking)
    others = sum(log.counts[code] for code in blocking) - 1
    said = f"{first.place.replace(', ', ': ', 1) if first.row is not None else ''} {first.message}".strip()
    command = f"tunesmith validate {source.path} --method {config.method}"
    if first.code.startswith("D2"):
        command += f" --model {config.model} --max-length {config.max_length}"
    where = f"{source.path}, {first.place}" if first.row is not None else source.path
    return DataError(
        f"{said} [{first.code}]"
        + (
            f", and {others:,} more {'finding' if others == 1 else 'findings'} in the way of training"
            if others
            else ""
        ),
        where=where,
        fix=f"{first.fix}; {command} shows all, --allow {first.code} accepts it",
    )


def _first(log: FindingLog, code: str) -> str:
    found = next(each for each in log.kept() if each.code == code)
    count = log.counts[code]
    place = "" if found.row is None else f"{found.place} "
    return f"{place}{found.message}" + (f", and {count - 1:,} more" if count > 1 else "")


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 over the token ids and labels, in order: two runs on the same data have the same one."""
    digest = hashlib.sha256()
    for batch in dataset.select_columns(["input_ids", "labels"]).iter(batch_size=1000):
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            digest.update(array("q", [len(ids), *ids, *labels]).tobytes())
    return digest.hexdigest()


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


def _evaluation_sources(config: RunConfig) -> list[DatasetSource]:
    if config.eval_dataset:
        return [DatasetSource(path=config.eval_dataset, map=config.map)]
    if config.dataset_test_split:
        changes = {"split": config.dataset_test_split, "max_rows": None}
        return [each.model_copy(update=changes) for each in config.sources()]
    return []


def _evaluation_rows(held_out: list[EncodedSource]) -> Dataset | None:
    import datasets

    return datasets.concatenate_datasets([part.dataset for part in held_out]) if held_out else None


def _hold_out(train: Dataset, config: RunConfig, report: DataReport) -> tuple[Dataset, Dataset]:
    """Rows to train and rows to evaluate on; copies of the latter are taken out of the former."""
    size = config.test_size or 0
    count = int(size) if size >= 1 else max(1, round(size * len(train)))
    if count >= len(train):
        raise DataError(
            f"test_size {size:g} leaves no row of {len(train)} to train on",
            where="test_size",
            fix="make it smaller",
        )
    halves = train.train_test_split(test_size=count, seed=config.seed)
    held_out = {_row_hash(ids) for ids in halves["test"]["input_ids"]}
    keep = [i for i, ids in enumerate(halves["train"]["input_ids"]) if _row_hash(ids) not in held_out]
    copies = len(halves["train"]) - len(keep)
    if not copies:
        return halves["train"], halves["test"]
    if not keep:
        raise DataError(
            "every row to train on is held out for evaluation too: the data set is one row, many times",
            where="test_size",
            fix="give more rows, or leave test_size out",
        )
    report.notes.append(f"{copies} training rows equal rows held out for evaluation, and are left out")
    return halves["train"].select(keep), halves["test"]


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
    return dataset if len(keep) == len(dataset) else dataset.select(keep)


def _row_hash(ids: list[int]) -> bytes:
    return hashlib.sha256(array("q", ids).tobytes()).digest()
