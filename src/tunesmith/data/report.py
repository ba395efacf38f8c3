"""The verdict on a data set: every finding, what was read and how, and whether it is fit to train on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.config.methods import METHODS
from tunesmith.data.checks.duplicates import duplicate_findings, leakage_findings
from tunesmith.data.checks.reward_report import RewardReport
from tunesmith.data.checks.signatures import concatenate
from tunesmith.data.checks.tokens import set_findings
from tunesmith.data.findings import CODES, Finding, FindingLog
from tunesmith.data.formats import late_columns
from tunesmith.data.layout import Layout
from tunesmith.data.partial import Partial
from tunesmith.data.reasoning_gym import is_reasoning_gym


@dataclass(frozen=True)
class Report:
    """What `tunesmith validate` says; `layout` is None where the columns fit no format of the method.

    `guess` then says which columns may fill slots, going by their names.
    """

    data: str
    method: str
    num_rows: int
    log: FindingLog
    layout: Layout | None = None
    allowed: frozenset[str] = frozenset()
    statistics: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, Any] | None = None
    rewards: tuple[RewardReport, ...] = ()
    files: dict[str, int] = field(default_factory=dict)
    guess: dict[str, str] = field(default_factory=dict)

    @property
    def fit(self) -> bool:
        """True when nothing stands in the way of training."""
        return not self.blocking

    @property
    def blocking(self) -> list[str]:
        """The codes of errors that were found and not allowed."""
        counts = self.log.counts
        return [code for code in sorted(counts) if CODES[code].level == "error" and code not in self.allowed]

    def file_of(self, row: int | None) -> tuple[str, int] | None:
        """The file that holds a row and the row's number in it, where the data are several files."""
        before = {path: first for path, first in self.files.items() if row is not None and first <= row}
        if not before or row is None:
            return None
        path = max(before, key=lambda each: before[each])
        return path, row - before[path]

    def as_dict(self) -> dict[str, Any]:
        """The report as the `--json` document has it."""
        layout = self.layout
        return {
            "data": self.data,
            "format": layout.name if layout else None,
            "method": self.method,
            "evidence": list(layout.evidence) if layout else [],
            "map": dict(layout.columns) if layout else {},
            "num_rows": self.num_rows,
            "files": self.files,
            "fit": self.fit,
            "allowed": sorted(self.allowed),
            "counts": {code: self.log.counts[code] for code in sorted(self.log.counts)},
            "findings": [finding.as_dict() for finding in self.log.kept()],
            "statistics": self.statistics,
            "tokens": self.tokens,
            "rewards": [each.as_dict() for each in self.rewards],
        }


@dataclass(frozen=True)
class ModelFit:
    """The model that the rows were tokenised for."""

    name: str
    tokenizer: Any
    vocab_size: int | None


def lacks_prompt(part: Partial) -> bool:
    """Whether pairs are plain texts without a prompt, which only a reward model can be trained on."""
    trainer = METHODS[part.method].trainer
    return part.layout.name == "preference" and "prompt" not in part.layout.columns and trainer != "reward"


def conclude(
    data: str,
    part: Partial,
    *,
    allowed: Collection[str] = (),
    model: ModelFit | None = None,
    rewards: Sequence[RewardReport] = (),
) -> Report:
    """The report on all that was read: findings of rows, and those that only the whole set shows."""
    log = part.log
    log.extend(part.balance.findings(part.layout))
    log.extend(late_columns(part.late, part.layout))
    if lacks_prompt(part):
        said = f"chosen and rejected are plain text, and {part.method} moves answers to a prompt"
        log.add(Finding("D108", None, None, said))
    if not part.num_rows:
        log.add(Finding("D306", None, None, "there is no row in it"))
    if part.signatures:
        signed = concatenate(part.signatures)
        # The same prompt with several answers is what preferences and unpaired answers are made of.
        several = part.layout.kind in ("preference", "unpaired")
        # Generated questions are alike by their template, and each is a question of its own.
        found = duplicate_findings(signed, near=not is_reasoning_gym(data))
        log.extend(each for each in found if not (several and each.code == "D305"))
        if part.evaluation:
            log.extend(leakage_findings(signed, concatenate(part.evaluation)))
    tokens = None
    if part.tokens and model:
        log.extend(set_findings(part.tokens, part.layout, model.tokenizer, model.vocab_size))
        tokens = part.tokens.as_dict(model.name)
    statistics = part.statistics.as_dict()
    if balance := part.balance.as_dict():
        statistics["balance"] = balance
    return Report(
        data, part.method, part.num_rows, log, part.layout, frozenset(allowed), statistics, tokens,
        tuple(rewards), part.files,
    )  # fmt: skip
