"""The columns that a trainer reads, made from a row's ids and labels: one shape for each kind of data.

conversation: `input_ids`, `labels`. preference: `prompt_ids`, `chosen_ids`, `rejected_ids`. unpaired:
`prompt_ids`, `completion_ids`, `label`. All are lists of token ids, prompt and answer together at most
max_length long, named as TRL names them.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from tunesmith.config.methods import Kind
from tunesmith.data.checks.rows import Row
from tunesmith.data.tokens import IGNORED_LABEL, Encoded, last_learned

_IDS = pa.list_(pa.int32())
COLUMNS: Mapping[Kind, tuple[str, ...]] = {
    "conversation": ("input_ids", "labels"),
    "preference": ("prompt_ids", "chosen_ids", "rejected_ids"),
    "unpaired": ("prompt_ids", "completion_ids", "label"),
}
# What is counted of a row and not trained on, under names that no data set has: tokens of its longest text
# before the cut, whether the last token to learn ends a turn or a text, and which source it comes from.
LENGTH, ENDS, SOURCE = "_tunesmith_length", "_tunesmith_ends", "_tunesmith_source"
_COUNTED = [(LENGTH, pa.int64()), (ENDS, pa.bool_())]
SCHEMAS: Mapping[Kind, pa.Schema] = {
    kind: pa.schema([(name, pa.bool_() if name == "label" else _IDS) for name in names] + _COUNTED)
    for kind, names in COLUMNS.items()
}


def token_row(kind: Kind, row: Row, texts: Sequence[Encoded], limit: int, marks: Collection[int]) -> Row:
    """The columns of a canonical row whose texts were encoded (two of a pair, chosen first)."""
    length = max(len(each.ids) for each in texts)
    if kind == "conversation":
        ids, labels = texts[0].ids[:limit], texts[0].labels[:limit]
        return {"input_ids": ids, "labels": labels, LENGTH: length, ENDS: last_learned(labels) in marks}
    prompt = _prompt(texts)
    answers = [_answer(each, len(prompt))[: max(0, limit - len(prompt))] for each in texts]
    ends = all(bool(each) and each[-1] in marks for each in answers)
    made: Row = {"prompt_ids": prompt[:limit], LENGTH: length, ENDS: ends}
    if kind == "preference":
        return made | {"chosen_ids": answers[0], "rejected_ids": answers[1]}
    return made | {"completion_ids": answers[0], "label": row["label"]}


def _prompt(texts: Sequence[Encoded]) -> list[int]:
    """What comes before the answer: of a pair the beginning that both sides share."""
    size = min(_first_learned(each) for each in texts)
    for tokens in zip(*(each.ids[:size] for each in texts), strict=True):
        if len(set(tokens)) > 1:  # tokens that merged across the boundary differ already
            size = next(i for i in range(size) if len({each.ids[i] for each in texts}) > 1)
            break
    return texts[0].ids[:size]


def _answer(text: Encoded, start: int) -> list[int]:
    """What follows the prompt, up to the last token to learn: no model generates what is written after it."""
    end = len(text.ids)
    while end > start and text.labels[end - 1] == IGNORED_LABEL:
        end -= 1
    return text.ids[start:end]


def _first_learned(text: Encoded) -> int:
    return next((i for i, label in enumerate(text.labels) if label != IGNORED_LABEL), len(text.ids))


def num_learned(row: Row) -> int:
    """Tokens of a row that carry loss; 0 where an answer is empty, so that nothing can be learned of it."""
    if "labels" in row:
        return sum(label != IGNORED_LABEL for label in row["labels"])
    sizes = [len(row[name]) for name in ("chosen_ids", "rejected_ids", "completion_ids") if name in row]
    return sum(sizes) if all(sizes) else 0


def num_tokens(row: Row) -> int:
    """Tokens that a trainer reads of a row: of a pair both texts."""
    if "input_ids" in row:
        return len(row["input_ids"])
    sides = [len(row[name]) for name in ("chosen_ids", "rejected_ids", "completion_ids") if name in row]
    return sum(sides) + len(sides) * len(row["prompt_ids"])


def row_bytes(row: Row, names: Sequence[str]) -> bytes:
    """The trained part of a row as bytes, to tell rows apart."""
    values: list[Any] = [row[name] for name in names]
    flat = [[int(each)] if isinstance(each, bool) else each for each in values]
    return array("q", [item for each in flat for item in (len(each), *each)]).tobytes()
