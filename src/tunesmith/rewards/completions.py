"""What every reward reads: the text of a completion, and what its row knows of the right answer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunesmith.errors import DataError

Reward = Callable[..., list[float | None]]

# Where `map: {reference: COLUMN}` puts the right answers, for rewards to find them whatever COLUMN is called.
REFERENCE = "reference_answer"
# Columns that hold what a good completion says, the likeliest first.
REFERENCE_COLUMNS = (
    REFERENCE, "answer", "solution", "ground_truth", "reference", "target", "final_answer",
    "expected_answer", "gold", "output", "label",
)  # fmt: skip
# What TRL passes besides columns; completions have a parameter of their own.
_PASSED = ("trainer_state", "log_extra", "log_metric", "prompts", "completion_ids", "environments")
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


def text_of(completion: Any) -> str:
    """The text of a completion: itself, or the content of its last message; "" where there is none."""
    if isinstance(completion, list | tuple):
        completion = completion[-1] if completion else None
    if isinstance(completion, Mapping):
        completion = completion.get("content")
    if isinstance(completion, list | tuple):  # content in parts, of which pictures are none to read
        texts = [part.get("text") for part in completion if isinstance(part, Mapping)]
        return "".join(text for text in texts if isinstance(text, str))
    return completion if isinstance(completion, str) else ""


def column_of(columns: Mapping[str, Any], name: str | None, reward: str) -> Sequence[Any]:
    """The column `name`, or without a name the first of REFERENCE_COLUMNS that is there.

    Raises:
        DataError: there is none.
    """
    found = [name] if name else [each for each in REFERENCE_COLUMNS if each in columns]
    if found and found[0] in columns:
        values: Sequence[Any] = columns[found[0]]
        return values
    by_args = f"in RUN.yaml rewards: [{{function: {reward}, args: {{column: COLUMN}}}}]"
    raise DataError(
        f"{reward} finds no column {name!r}" if name else f"{reward} finds no column with reference answers",
        where=columns_said(columns),
        fix=f"name it {by_args}" if name else f"name it: --map reference=COLUMN, or {by_args}",
    )


def columns_said(columns: Mapping[str, Any]) -> str:
    """The columns of the data among what TRL passes, for a sentence."""
    there = [each for each in columns if each not in _PASSED]
    return f"columns of the data: {', '.join(there) or 'none but the prompt'}"


def answers_of(value: Any) -> list[str]:
    """The reference answers that a row accepts, as text; none where the row has no answer."""
    if isinstance(value, list | tuple):
        return [answer for each in value for answer in answers_of(each)]
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, bool):
        return [str(value)]
    return [str(value)] if isinstance(value, int | float) and math.isfinite(value) else []


def marked_answer(text: str) -> str | None:
    """What a text marks as its answer: in \\boxed{}, after ####, in <answer> tags; None where it marks none.

    The last mark of a kind counts. A mark inside of another is looked into.
    """
    inner = _boxed(text)
    if inner is None and "####" in text:
        inner = text.rpartition("####")[2].lstrip().split("\n")[0]
    if inner is None and (end := text.rfind("</answer>")) >= 0:
        start = text.rfind("<answer>", 0, end)
        inner = text[start + len("<answer>") : end] if start >= 0 else None
    if inner is None:
        return None
    deeper = marked_answer(inner)
    return inner.strip() if deeper is None else deeper


def _boxed(text: str) -> str | None:
    """What stands in the last box that is closed, braces inside of it in pairs."""
    open_at: list[int | None] = []
    last: tuple[int, int] | None = None
    for found in _BRACE.finditer(text):
        brace = found[0]
        if brace == "}" and open_at:
            start = open_at.pop()
            if start is not None and (last is None or start > last[0]):
                last = start, found.start()
        elif brace[-1] == "{" and brace != r"\{":
            open_at.append(found.end() if len(brace) > 1 else None)
    return None if last is None else text[last[0] : last[1]]


def fenced(text: str, languages: tuple[str, ...]) -> str | None:
    """What stands in the last fenced block of one of the languages, or else in the last one; None without.

    A block that is never closed, as in an answer cut at its length, goes on to the end.
    """
    blocks = _FENCE.findall(text)
    named = [body for language, body in blocks if language.lower() in languages]
    body: str | None = named[-1] if named else blocks[-1][1] if blocks else None
    return body
