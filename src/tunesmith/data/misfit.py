"""What to say of rows that fit no format of a method: what is there instead, and what to do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.checks.rows import BadRow
from tunesmith.data.findings import CODES
from tunesmith.data.formats import detect
from tunesmith.data.layout import KINDS, Layout
from tunesmith.errors import DataError

_NEEDS = {
    "conversation": "messages, or a prompt and a completion, or text",
    "preference": "chosen and rejected",
    "unpaired": "a prompt, a completion and a label that is true or false",
    "prompts": "a prompt",
}
# What to say of a guess.
GUESSED = "a guess from their names: chosen is the better answer"
# The slots to name for each kind, as an example.
_SLOTS = {
    "conversation": ("user", "assistant"),
    "preference": ("chosen", "rejected"),
    "unpaired": ("prompt", "completion", "label"),
    "prompts": ("prompt",),
}
# Words that tell the better answer from the worse one.
_BETTER_WORSE = (
    ("chosen", "rejected"), ("good", "bad"), ("better", "worse"), ("best", "worst"), ("accepted", "rejected"),
    ("accept", "reject"), ("winner", "loser"), ("winning", "losing"), ("win", "lose"), ("won", "lost"),
    ("preferred", "dispreferred"), ("preferred", "rejected"), ("positive", "negative"), ("pos", "neg"),
    ("correct", "incorrect"), ("right", "wrong"), ("liked", "disliked"),
)  # fmt: skip
# Words that only tell two answers apart, and those that say that they are answers.
_FIRST_SECOND = (("w", "l"), ("a", "b"), ("1", "2"), ("0", "1"))
_ANSWERS = frozenset({"y", "response", "answer", "completion", "output", "reply", "generation", "summary"})


def no_layout(method: str, columns: Sequence[str], sample: Sequence[Any]) -> str:
    """A sentence that says what was found instead of what the method needs."""
    others = [name for name in _fitting_methods(columns, sample) if KINDS[name] != KINDS[method]]
    if guess(method, columns):  # a prompt alone fits grpo, which is not what these columns are for
        others = []
    fits = f"; they fit {' or '.join(others)}" if others else ""
    inner = [name for name in columns if _holds_rows(name, sample)]
    if len(columns) == 1 and inner:
        fits = f"; the rows lie in the list under {inner[0]!r}: save that list as the file"
    needs = _NEEDS[KINDS[method]]
    return f"{method} needs {needs}, and the columns are {', '.join(columns) or 'none'}{fits}"


def advice(method: str, columns: Sequence[str]) -> str:
    """What to do about it: columns to name, guessed from what such columns are usually called."""
    guessed = guess(method, columns)
    if guessed:
        return f"name the columns: --map {shlex.quote(map_text(guessed))} ({GUESSED})"
    return f"choose the method that fits, or name the columns: --map {map_text(example(method))}"


def map_text(columns: Mapping[str, str]) -> str:
    """The map as `--map` takes it."""
    return ",".join(f"{slot}={column}" for slot, column in columns.items())


def example(method: str) -> dict[str, str]:
    """The slots that a map for the method names, each with a placeholder."""
    return dict.fromkeys(_SLOTS[KINDS[method]], "COLUMN")


def guess(method: str, columns: Sequence[str]) -> dict[str, str]:
    """The columns that look like the better and the worse answer, by slot; none where there are none."""
    if KINDS[method] != "preference":
        return {}
    named = {_words(column): column for column in columns}
    for better, worse in (*_BETTER_WORSE, *_FIRST_SECOND):
        for words, column in named.items():
            clear = (better, worse) in _BETTER_WORSE or _ANSWERS & set(words)
            for at, word in enumerate(words):
                other = named.get((*words[:at], worse, *words[at + 1 :]))
                if word == better and clear and other:
                    return {"chosen": column, "rejected": other}
    return {}


def _words(column: str) -> tuple[str, ...]:
    """The words of a column's name in lower case, its numbers among them: `responseA`, `response_a`."""
    return tuple(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", column))


def misfit(method: str, columns: Sequence[str], sample: Sequence[Any], path: str) -> DataError:
    """The refusal of rows that fit no format of the method: the first that is no row, where none is one."""
    bad = next(((number, row) for number, row in enumerate(sample) if isinstance(row, BadRow)), None)
    if not columns and bad:
        number, said = bad
        shows = f"tunesmith validate {shlex.quote(path)} --method {method} shows all"
        return DataError(
            f"row {number} {said} [D001]", where=f"{path}, row {number}", fix=f"{CODES['D001'].fix}; {shows}"
        )
    return DataError(no_layout(method, columns, sample), where=path, fix=advice(method, columns))


def require(
    method: str, columns: Sequence[str], sample: Sequence[Any], given: Mapping[str, str], path: str
) -> Layout:
    """The layout that `detect` finds.

    Raises:
        DataError: none fits the method, or there is no row that can be read.
    """
    layout = detect(method, columns, sample, given)
    if layout is None:
        raise misfit(method, columns, sample, path)
    return layout


def _fitting_methods(columns: Sequence[str], sample: Sequence[Any]) -> list[str]:
    """The methods, one of each kind, that these columns fit."""
    return [name for name in ("sft", "dpo", "kto", "grpo") if detect(name, columns, sample) is not None]


def _holds_rows(column: str, sample: Sequence[Any]) -> bool:
    values = [row.get(column) for row in sample if isinstance(row, dict)]
    return (
        len(values) == 1 and isinstance(values[0], list) and any(isinstance(each, dict) for each in values[0])
    )
