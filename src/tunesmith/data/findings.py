"""A finding: a stable code, a place, what is wrong there, what to do. And the log that counts them."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from tunesmith.data.checks.secrets import find_secrets
from tunesmith.errors import ConfigError

Level = Literal["error", "warning", "info"]
LEVELS: tuple[Level, ...] = ("error", "warning", "info")
# A report lists so many findings of each code, the first by row; counts are exact whatever the number.
KEPT_PER_CODE = 1000


class Code(NamedTuple):
    """What a code stands for: how grave it is, in a few words, and what to do about it."""

    level: Level
    title: str
    fix: str


CODES: dict[str, Code] = {
    # Structure: one row at a time, whatever the model.
    "D001": Code("error", "row can't be read", "mend the line, or take it out"),
    "D002": Code("error", "field is missing", "add it, or take the row out"),
    "D003": Code("error", "field is null", "fill it, or take the row out"),
    "D004": Code("error", "text is empty or blank", "fill it, or take the row out"),
    "D005": Code("error", "wrong type", "give the field the type that the other rows have"),
    "D006": Code("error", "unknown role", "use system, developer, user, assistant or tool"),
    "D007": Code("warning", "order of roles", "let user and assistant take turns, a system message first"),
    "D008": Code("error", "no assistant turn", "add the answer to learn, or take the row out"),
    "D009": Code("warning", "last turn is not the assistant's", "add the answer, or take the turn out"),
    "D010": Code("error", "tool call is malformed", "give it a function name and arguments as a JSON object"),
    "D011": Code(
        "error", "tool call names no tool of the row", "declare the tool in tools, or mend the name"
    ),
    "D012": Code("error", "tools can't be read", "give a list of JSON schemas, each with a name"),
    "D013": Code("warning", "tool answer fits no call", "let a tool message follow the call it answers"),
    "D014": Code(
        "error", "content is not text", "keep text parts only: images and audio can't be trained on"
    ),
    "D015": Code("error", "lone surrogate", "save the file as UTF-8; half a character can't be tokenised"),
    "D016": Code("warning", "control characters", "take them out: they are left-overs of a broken export"),
    "D017": Code(
        "warning", "control tokens in the text", "take them out, or the model reads them as the end"
    ),
    "D018": Code("warning", "row is very large", "split it: one row of this size holds up the whole batch"),
    "D019": Code("warning", "column begins late and is not read", "name it: --map SLOT=COLUMN"),
    # Method: what this way of training needs.
    "D101": Code("error", "chosen and rejected are the same", "take the pair out: it teaches nothing"),
    "D102": Code("error", "the pair has two prompts", "give chosen and rejected the same prompt"),
    "D103": Code(
        "warning", "chosen and rejected differ in length", "match lengths, or the model learns the length"
    ),
    "D104": Code("warning", "labels are out of balance", "set desirable_weight and undesirable_weight"),
    "D105": Code("error", "all labels are the same", "add rows with the other label, or train another way"),
    "D106": Code("error", "no usable reference answer", "fill it: without one the reward can't judge"),
    "D107": Code("error", "columns fit another method", "choose the method that fits, or name the columns"),
    "D108": Code("error", "the pairs have no prompt", "add a column prompt, or name it: --map prompt=COLUMN"),
    # Model: what its template and tokenizer make of the rows.
    "D201": Code(
        "error", "chat template can't render the row", "mend the row, or choose another chat_template"
    ),
    "D202": Code("error", "begins with two begin-of-text tokens", "take the token out of the text"),
    "D203": Code("error", "no row trains the end of an answer", "choose a chat_template that ends each turn"),
    "D204": Code("error", "no token carries loss", "mend the row, or choose another chat_template"),
    "D205": Code("warning", "row is cut by max_length", "raise max_length, or split the row"),
    "D206": Code("warning", "answer is cut away by max_length", "raise max_length, or shorten the prompt"),
    "D207": Code("error", "max_length loses too many answers", "raise max_length, or shorten the rows"),
    "D208": Code("info", "template has no generation marks", "nothing to do: turns are found by rendering"),
    "D209": Code("error", "tokenizer and model don't fit", "use the tokenizer that came with the model"),
    "D210": Code("info", "plain text for a chat model", "use conversations to train the chat template"),
    "D211": Code("error", "the pair is the same once cut", "raise max_length, or shorten the prompt"),
    # Set: rows beside each other.
    "D301": Code("warning", "exact duplicates", "keep one of each: --fix does"),
    "D302": Code("warning", "near duplicates", "look at them, and keep one of each"),
    "D303": Code("error", "evaluation row is in the training data", "take it out of one of them"),
    "D304": Code("warning", "evaluation row is nearly in the training data", "take it out of one of them"),
    "D305": Code("warning", "one prompt with different answers", "keep the answer you want"),
    "D306": Code("error", "no rows", "give a dataset with at least one row"),
    # Safety: what a model should not learn by heart.
    "D401": Code("warning", "API key or token", "take it out and revoke it: models repeat what they saw"),
    "D402": Code("warning", "private key", "take it out and replace it: models repeat what they saw"),
    "D403": Code("warning", "e-mail address", "replace it, unless it is meant to be learned"),
    # Reward functions, called on real rows.
    "D501": Code("error", "reward can't be called, or fails", "mend the function at the line that is named"),
    "D502": Code("warning", "reward gives None", "return a number for every completion"),
    "D503": Code("error", "reward gives NaN or infinity", "return a finite number for every completion"),
    "D504": Code("error", "reward gives the wrong shape", "return a list with one number a completion"),
    "D505": Code("warning", "reward is constant", "let it tell good completions from bad ones"),
    "D506": Code("warning", "reward is slow", "make it faster: the GPU waits for it at every step"),
}


def known_codes(codes: Iterable[str]) -> frozenset[str]:
    """`codes` as a set.

    Raises:
        ConfigError: there is no such code.
    """
    wanted = frozenset(codes)
    unknown = sorted(wanted - CODES.keys())
    if unknown:
        raise ConfigError(
            f"there is no code {unknown[0]!r} to allow",
            where="allow",
            fix="give the codes that tunesmith validate prints, such as D207",
        )
    return wanted


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: `row` is 0-based, None for the set; `field` is a path in the user's names.

    `advice` says what to do where that is more than the code knows.
    """

    code: str
    row: int | None
    field: str | None
    message: str
    advice: str = ""

    @property
    def level(self) -> Level:
        """How grave it is."""
        return CODES[self.code].level

    @property
    def fix(self) -> str:
        """What to do about it."""
        return self.advice or CODES[self.code].fix

    @property
    def is_of_reward(self) -> bool:
        """Whether a reward said so: it saw a few of the rows, and leaving these out would not mend it."""
        return self.code.startswith("D5") or (self.field or "").startswith("reward ")

    @property
    def place(self) -> str:
        """Where it is, as a person says it: `row 1731, messages[2].content`."""
        what = "evaluation row" if self.code in ("D303", "D304") else "row"
        parts = [] if self.row is None else [f"{what} {self.row}"]
        return ", ".join([*parts, *([self.field] if self.field else [])]) or "the whole set"

    def as_dict(self) -> dict[str, Any]:
        """The finding as the `--json` document has it."""
        return {
            "code": self.code, "level": self.level, "row": self.row, "field": self.field,
            "message": self.message, "fix": self.fix,
        }  # fmt: skip


def _order(finding: Finding) -> tuple[bool, int, str, str]:
    row = -1 if finding.row is None else finding.row
    return finding.row is None, row, finding.field or "", finding.message


def _showable(finding: Finding) -> Finding:
    """`finding` without half characters, which no terminal and no file takes, and without secrets."""
    message, place = (None if text is None else _escaped(text) for text in (finding.message, finding.field))
    if finding.code[:2] != "D4" and message and find_secrets(message):
        message = "is at fault; it holds what looks like a secret, so it is not shown"
    return replace(finding, message=message or "", field=place)


def _escaped(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


@dataclass
class FindingLog:
    """Exact counts by code, and the first findings of each code by row; logs of shards can be merged.

    `stream` is called with every finding, kept or not.
    """

    stream: Callable[[Finding], None] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    _kept: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it if it is among the first of its code."""
        finding = _showable(finding)
        self.counts[finding.code] += 1
        if self.stream:
            self.stream(finding)
        kept = self._kept.setdefault(finding.code, [])
        kept.append(finding)
        if len(kept) >= 2 * KEPT_PER_CODE:
            self._kept[finding.code] = heapq.nsmallest(KEPT_PER_CODE, kept, key=_order)

    def extend(self, findings: Iterable[Finding]) -> None:
        """Add several."""
        for finding in findings:
            self.add(finding)

    def merge(self, other: FindingLog) -> None:
        """Take in the log of another part of the same data."""
        self.counts.update(other.counts)
        for code, found in other._kept.items():
            both = self._kept.get(code, []) + found
            self._kept[code] = heapq.nsmallest(KEPT_PER_CODE, both, key=_order)

    def restore(self, counts: Mapping[str, int], found: Iterable[Finding]) -> None:
        """Take up what another log counted and kept."""
        self.counts.update(counts)
        for finding in found:
            self._kept.setdefault(finding.code, []).append(finding)

    def kept(self) -> list[Finding]:
        """The first findings of each code, worst level first, then by code and row."""
        return list(self._sorted())

    def _sorted(self) -> Iterator[Finding]:
        for code in sorted(self._kept, key=lambda each: (LEVELS.index(CODES[each].level), each)):
            yield from heapq.nsmallest(KEPT_PER_CODE, self._kept[code], key=_order)

    def num_of(self, level: Level) -> int:
        """How many findings there are of a level."""
        return sum(count for code, count in self.counts.items() if CODES[code].level == level)
