"""What the flags of `tunesmith validate` ask for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.cli.data_options import known_method, model_fit, source_of
from tunesmith.cli.data_progress import DataProgress
from tunesmith.errors import ConfigError

if TYPE_CHECKING:
    from tunesmith.data.fix import Fixes
    from tunesmith.data.validate import Request

Stream = Callable[[Any], None]


@dataclass(frozen=True)
class Flags:
    """The command line as it was given."""

    data: list[str]
    method: str
    model: str | None
    max_length: int
    chat_template: str | None
    maps: list[str]
    split: str
    eval_dataset: str | None
    eval_split: str | None
    rewards: list[str]
    fix: Path | None
    findings: Path | None
    html: Path | None
    allow: list[str]
    duplicates: bool
    token_rows: int
    shard: str | None
    out: Path | None
    merge: bool


def request_of(flags: Flags, view: DataProgress, stream: Stream | None, fixes: Fixes | None) -> Request:
    """The request, its model's tokenizer and its reward functions loaded.

    Raises:
        TunesmithError: something that the flags name doesn't exist or can't be loaded.
    """
    from tunesmith.data.column_map import parse_map
    from tunesmith.data.fix import refuse_output
    from tunesmith.data.partial import Checks
    from tunesmith.data.validate import Request
    from tunesmith.rewards.loading import load_reward

    if flags.fix:
        refuse_output(flags.fix, flags.data[0])
    rewards = {name: load_reward(name) for name in flags.rewards}
    evaluation = None
    if flags.eval_dataset or flags.eval_split:
        evaluation = source_of(flags.eval_dataset or flags.data[0], flags.eval_split or "train")
    model = model_fit(flags.model, flags.chat_template, view.phase)
    view.phase("reading the data")
    return Request(
        source=source_of(flags.data[0], flags.split),
        method=flags.method,
        given=parse_map(flags.maps),
        allowed=codes_of(flags.allow),
        checks=Checks(duplicates=flags.duplicates),
        model=model,
        max_length=flags.max_length,
        token_rows=flags.token_rows,
        evaluation=evaluation,
        rewards=rewards,
        shard=_shard(flags.shard),
        merges=flags.merge,
        stream=_both(stream, fixes.collect if fixes else None),
        progress=view.advance,
    )


def codes_of(allow: list[str]) -> frozenset[str]:
    """The codes of all `--allow`, each of which may name several.

    Raises:
        ConfigError: there is no such code.
    """
    from tunesmith.data.findings import known_codes

    return known_codes(code.strip() for each in allow for code in each.split(","))


def refuse_odd_combinations(flags: Flags) -> None:
    """Make sure that the flags make sense together.

    Raises:
        ConfigError: they don't.
    """
    known_method(flags.method)
    _shard(flags.shard)
    if len(flags.data) > 1 and not flags.merge:
        raise ConfigError(
            f"one data set at a time, not {' '.join(flags.data[:3])}",
            where="command line",
            fix="name one, or a folder that holds all files",
        )
    named = {"--fix": flags.fix, "--reward": flags.rewards, "--html": flags.html and flags.shard}
    together = [name for name, given in named.items() if given]
    if (flags.merge or flags.shard) and together:
        raise ConfigError(
            f"{together[0]} doesn't go with {'--merge' if flags.merge else '--shard'}",
            where="command line",
            fix=f"leave {together[0]} out, or validate the data in one go",
        )
    if flags.merge and flags.shard:
        raise ConfigError(
            "--shard and --merge exclude each other",
            where="command line",
            fix="run all shards, then merge them",
        )
    if flags.rewards and flags.method not in ("grpo", "rloo"):
        raise ConfigError(
            f"--reward is for grpo and rloo, not for {flags.method}",
            where="--reward",
            fix="add --method grpo",
        )
    if (flags.eval_dataset or flags.eval_split) and not flags.duplicates:
        raise ConfigError(
            "--no-duplicates leaves nothing to find evaluation rows in the training data by",
            where="command line",
            fix="leave --no-duplicates out",
        )
    _refuse_outputs(flags)


def _refuse_outputs(flags: Flags) -> None:
    """Make sure that what is written has a folder, is none of what is read, and is written once."""
    read = [Path(each).expanduser().resolve() for each in (*flags.data, flags.eval_dataset) if each]
    named = {"--findings": flags.findings, "--html": flags.html, "--out": flags.out, "--fix": flags.fix}
    written: set[Path] = set()
    for name, path in named.items():
        if path is None:
            continue
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"there is no folder {path.parent}", where=name, fix="make it first")
        target = path.resolve()
        if target in written or any(target == each or each in target.parents for each in read):
            raise ConfigError(
                f"{name} {path} would write over what is read, or over another output",
                where=name,
                fix="choose another name, outside of the data",
            )
        written.add(target)


@contextlib.contextmanager
def findings_file(path: Path | None) -> Iterator[Stream | None]:
    """A function that writes a finding as a line of `path`, or None where no path is given."""
    if path is None:
        yield None
        return
    from tunesmith.runs.files import replaced_whole

    with replaced_whole(path) as file:

        def write(finding: Any) -> None:
            file.write(json.dumps(finding.as_dict()).encode() + b"\n")

        yield write


def _both(*streams: Stream | None) -> Stream | None:
    """One function that hands a finding to all that are there, or None."""
    there = [each for each in streams if each]

    def call(finding: Any) -> None:
        for each in there:
            each(finding)

    return call if there else None


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, slash, number = text.partition("/")
    if not slash or not index.isdecimal() or not number.isdecimal() or not 0 <= int(index) < int(number):
        raise ConfigError(
            f"--shard {text!r} should be I/N, with I from 0 to N-1", where="--shard", fix="write --shard 0/4"
        )
    return int(index), int(number)
