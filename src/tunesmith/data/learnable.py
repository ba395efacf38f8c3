"""Which rows are trained on: those held out, those left out, and the counts of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith.config.methods import Kind
from tunesmith.config.run_config import RunConfig
from tunesmith.data.token_rows import COLUMNS, ENDS, LENGTH, SOURCE, num_learned, num_tokens, row_bytes
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

_OURS = (LENGTH, ENDS, SOURCE)


@dataclass
class DataReport:
    """What the data stage found; counts are rows unless the name says tokens.

    `num_cut` and `num_dropped` are of what was read, the others of what is trained on: `num_ended` counts the
    rows whose last token to learn ends the answer, `num_left_out` those whose faults were allowed and that
    can't be encoded, `mixture` the rows of each source. `num_tokens` are both texts of a pair, and the prompt
    alone where the model answers itself; `mean_length` and `length_deviation` (the standard deviation) are a
    row's, `longest` is the longest text. `pair_lengths` are mean tokens of the chosen and the rejected
    answers, `rewards` what each reward made of sample completions, in words, and
    `reward_trials` the same in figures.
    """

    formats: dict[str, str] = field(default_factory=dict)
    num_rows: int = 0
    num_eval_rows: int = 0
    num_tokens: int = 0
    num_loss_tokens: int = 0
    mean_length: float = 0.0
    length_deviation: float = 0.0
    longest: int = 0
    num_cut: int = 0
    num_dropped: int = 0
    num_ended: int = 0
    num_left_out: int = 0
    pair_lengths: dict[str, float] = field(default_factory=dict)
    mixture: dict[str, int] = field(default_factory=dict)
    rewards: dict[str, str] = field(default_factory=dict)
    reward_trials: list[dict[str, Any]] = field(default_factory=list)
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as run.json keeps it."""
        return asdict(self)


def trained_columns(dataset: Dataset, kind: Kind) -> list[str]:
    """The columns that the trainer gets."""
    if kind == "prompts":
        return [name for name in dataset.column_names if name not in _OURS]
    return list(COLUMNS[kind])


def fingerprint(dataset: Dataset, kind: Kind) -> str:
    """SHA-256 over what is trained on, in order: two runs on the same data have the same one."""
    digest = hashlib.sha256()
    for row in _rows(dataset):
        digest.update(_content(row, kind))
    return digest.hexdigest()


def hold_out(train: Dataset, config: RunConfig, report: DataReport) -> tuple[Dataset, Dataset]:
    """Rows to train and rows to evaluate on; copies of the latter are taken out of the former.

    Raises:
        DataError: no row is left to train on.
    """
    size = config.test_size or 0
    count = int(size) if size >= 1 else max(1, round(size * len(train)))
    if count >= len(train):
        raise DataError(
            f"test_size {size:g} leaves no row of {len(train)} to train on",
            where="test_size",
            fix="make it smaller",
        )
    halves = train.train_test_split(test_size=count, seed=config.seed)
    held_out = {_text_hash(row, config.kind) for row in _rows(halves["test"])}
    keep = [i for i, row in enumerate(_rows(halves["train"])) if _text_hash(row, config.kind) not in held_out]
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


def keep_learnable(dataset: Dataset, config: RunConfig, report: DataReport) -> Dataset:
    """The rows from which something can be learned after the cut, and the counts of what was lost.

    Raises:
        DataError: no row is left.
    """
    if config.kind == "prompts":
        return _keep_prompts(dataset, config, report)
    lengths = dataset[LENGTH][:]
    keep: list[int] = []
    sides: dict[str, int] = {}
    squares = 0
    for index, row in enumerate(_rows(dataset)):
        learned = num_learned(row)
        if not learned:
            continue
        keep.append(index)
        length = num_tokens(row)
        squares += length**2
        report.num_tokens += length
        report.num_loss_tokens += learned
        report.num_ended += row[ENDS]
        for side in ("chosen", "rejected") if config.kind == "preference" else ():
            sides[side] = sides.get(side, 0) + len(row[f"{side}_ids"])
    report.num_rows = len(keep)
    report.num_dropped = len(dataset) - len(keep)
    report.num_cut = sum(length > config.max_length for length in lengths)
    report.longest = max(lengths, default=0)
    mean = report.num_tokens / max(1, len(keep))
    report.mean_length = round(mean, 1)
    report.length_deviation = round(max(0.0, squares / max(1, len(keep)) - mean**2) ** 0.5, 1)
    report.pair_lengths = {side: round(total / max(1, len(keep)), 1) for side, total in sides.items()}
    if not keep:
        raise _nothing_left(config, report, len(dataset))
    if report.num_cut:
        dropped = f"; {report.num_dropped} of them lose every token that carries loss and are dropped"
        report.notes.append(
            f"{report.num_cut} of {len(dataset)} rows are longer than max_length {config.max_length}"
            + " and are cut"
            + (dropped if report.num_dropped else "")
        )
    return dataset if len(keep) == len(dataset) else dataset.select(keep)


def _keep_prompts(dataset: Dataset, config: RunConfig, report: DataReport) -> Dataset:
    """The prompts that fit max_length: one that is cut asks something else."""
    lengths = dataset[LENGTH][:]
    keep = [index for index, length in enumerate(lengths) if length <= config.max_length]
    report.num_rows = len(keep)
    report.num_cut = report.num_dropped = len(dataset) - len(keep)
    report.longest = max(lengths, default=0)
    report.num_tokens = sum(lengths[index] for index in keep)
    report.mean_length = round(report.num_tokens / max(1, len(keep)), 1)
    if not keep:
        raise _nothing_left(config, report, len(dataset))
    if report.num_dropped:
        report.notes.append(
            f"{report.num_dropped} of {len(dataset)} prompts are longer than max_length {config.max_length} "
            "and are left out"
        )
    return dataset if len(keep) == len(dataset) else dataset.select(keep)


def _nothing_left(config: RunConfig, report: DataReport, num_rows: int) -> DataError:
    return DataError(
        f"no row keeps a token to learn: max_length {config.max_length} cuts all {num_rows} before"
        if config.kind != "prompts"
        else f"no prompt fits: all {num_rows} are longer than max_length {config.max_length}",
        where="max_length",
        fix=f"set max_length to {report.longest} or more",
    )


def _rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The rows, read a batch at a time: one at a time is many times slower."""
    for batch in dataset.iter(batch_size=1000):
        columns = list(batch.values())
        yield from (dict(zip(batch, row, strict=True)) for row in zip(*columns, strict=True))


def _content(row: dict[str, Any], kind: Kind) -> bytes:
    if kind == "prompts":
        told = {name: value for name, value in row.items() if name not in _OURS}
        return json.dumps(told, sort_keys=True, default=str).encode()
    return row_bytes(row, COLUMNS[kind])


def _text_hash(row: dict[str, Any], kind: Kind) -> bytes:
    """Of what the model reads, whatever of it carries loss."""
    if kind == "prompts":
        return hashlib.sha256(json.dumps(row["prompt"], default=str).encode()).digest()
    names = [name for name in COLUMNS[kind] if name not in ("labels", "label")]
    return hashlib.sha256(row_bytes(row, names)).digest()
