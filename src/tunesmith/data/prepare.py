"""The data stage of a run: open, check, convert, encode, cut, mix and split, and count what was lost."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.config.run_config import DatasetSource, RunConfig
from tunesmith.data.checks.duplicates import copies_across
from tunesmith.data.checks.rewards import check_reward
from tunesmith.data.encoded_rows import EncodedSource, encode_source
from tunesmith.data.findings import CODES, FindingLog, known_codes
from tunesmith.data.learnable import DataReport, fingerprint, hold_out, keep_learnable, trained_columns
from tunesmith.data.misfit import map_text
from tunesmith.data.partial import Partial
from tunesmith.data.report import ModelFit, conclude
from tunesmith.data.token_rows import SOURCE
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class PreparedData:
    """Datasets with the columns that `token_rows` names for the method's kind of data.

    Of prompts the rows themselves: `prompt` (messages, or plain text) and the columns beside it.
    """

    train: Dataset
    eval: Dataset | None
    report: DataReport


def prepare_data(
    config: RunConfig, tokenizer: Any, rewards: Mapping[str, Callable[..., Any]] | None = None
) -> PreparedData:
    """Everything that will be trained and evaluated on, as token ids; every row is checked first.

    `rewards` are tried on the first rows, before a model is loaded.

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
        _try_rewards(part, rewards or {}, report)
        report.notes += verdict(source, part.checked, config, tokenizer)
    report.notes += _copies(parts)
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
        train, evaluation = hold_out(train, config, report)
    train = keep_learnable(train, config, report)
    report.fingerprint = fingerprint(train, config.kind)
    if len(sources) > 1:
        taken = Counter(train[SOURCE])
        report.mixture = {f"{each.path}#{index}": taken[index] for index, each in enumerate(sources)}
    if evaluation is not None:
        seen = DataReport()
        evaluation = keep_learnable(evaluation, config, seen)
        report.num_eval_rows = len(evaluation)
        report.notes += [f"evaluation: {note}" for note in seen.notes]
    columns = trained_columns(train, config.kind)
    return PreparedData(
        train.select_columns(columns),
        None if evaluation is None else evaluation.select_columns(trained_columns(evaluation, config.kind)),
        report,
    )


def _try_rewards(part: EncodedSource, rewards: Mapping[str, Callable[..., Any]], report: DataReport) -> None:
    """Call each reward on the first rows; what is wrong with it is a finding like any other."""
    for name, function in rewards.items():
        tried, found = check_reward(
            function,
            name,
            [row for _, row in part.sample],
            row_numbers=[number for number, _ in part.sample],
            reference=part.checked.layout.columns.get("reference"),
        )
        part.checked.log.extend(found)
        if tried:
            report.rewards[name] = tried.said()
            report.reward_trials.append({"data": part.source.path, **tried.as_dict()})


def _copies(parts: list[EncodedSource]) -> list[str]:
    """A note on rows that two data sets of the run have in common."""
    found = copies_across([part.checked.signatures for part in parts])
    if found is None:
        return []
    paths = [part.source.path for part in parts]
    names = [path if paths.count(path) == 1 else f"{path}#{index}" for index, path in enumerate(paths)]
    more = f", and {found.number - 1:,} more" if found.number > 1 else ""
    return [
        f"D301 {CODES['D301'].title}: row {found.row} of {names[found.source]} is the same as "
        f"row {found.first_row} of {names[found.first_source]}{more}"
    ]


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
    place = first.place.replace(", ", ": ", 1) if first.row is not None else first.field or ""
    # The colon tells the name of a reward or a column from the sentence about it.
    said = f"{place}: {first.message}" if first.is_of_reward else f"{place} {first.message}".strip()
    command = f"tunesmith validate {shlex.quote(source.path)} --method {config.method}"
    command += f" --map {shlex.quote(map_text(source.map))}" if source.map else ""
    if first.code.startswith("D2"):
        command += f" --model {config.model} --max-length {config.max_length}"
    if first.is_of_reward:
        command += "".join(f" --reward {shlex.quote(reward.function)}" for reward in config.rewards)
    # The command line has no arguments for rewards: with them it would show something else.
    differs = first.is_of_reward and any(reward.args for reward in config.rewards)
    where = f"{source.path}, {first.place}" if first.row is not None else source.path
    # A reward that can't be called, or gives no rewards, can't be trained with either.
    accept = "" if first.code in ("D501", "D504") else f", --allow {first.code} accepts it"
    return DataError(
        f"{said} [{first.code}]"
        + (
            f", and {others:,} more {'finding' if others == 1 else 'findings'} in the way of training"
            if others
            else ""
        ),
        where=where,
        fix=first.fix + ("" if differs else f"; {command} shows all") + accept,
    )


def _first(log: FindingLog, code: str) -> str:
    found = next(each for each in log.kept() if each.code == code)
    count = log.counts[code]
    there = found.row is not None or found.field
    place = found.place + (": " if found.is_of_reward else " ") if there else ""
    return f"{place}{found.message}" + (f", and {count - 1:,} more" if count > 1 else "")


def _mix(parts: list[Dataset], sources: tuple[DatasetSource, ...], seed: int) -> Dataset:
    """One dataset: all rows in a seeded order, or by weight until a source runs out (no row twice).

    The column SOURCE says which one a row comes from.
    """
    import datasets

    if len(parts) == 1:
        return parts[0]
    named = [part.add_column(SOURCE, [index] * len(part)) for index, part in enumerate(parts)]
    # RunConfig holds that either every source has a weight or none has.
    weights = [source.weight for source in sources if source.weight is not None]
    try:
        if not weights:
            return datasets.concatenate_datasets(named).shuffle(seed=seed)
        shares = [weight / sum(weights) for weight in weights]
        return datasets.interleave_datasets(
            named, probabilities=shares, seed=seed, stopping_strategy="first_exhausted"
        )
    except ValueError as error:  # of prompts the columns are the user's own
        raise DataError(
            f"the datasets can't be mixed, as their columns differ: {str(error).splitlines()[0][:200]}",
            where="dataset",
            fix="give all of them the same columns, each of one type",
        ) from error


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
