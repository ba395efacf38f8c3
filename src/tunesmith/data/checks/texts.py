"""The words of rows, apart from their structure: what is asked and what is answered, a string each.

Two ways to the same strings: on whole columns where their types are plain, row by row where they aren't.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from tunesmith.data.batches import Batch
from tunesmith.data.checks.rows import BadRow, Row, read_label
from tunesmith.data.checks.screen import to_polars
from tunesmith.data.layout import Layout, get_path, without_nulls

_BEFORE = ("system", "messages", "prompt", "user", "input")
_UNSPOKEN = ("tools", "history", "media")
_ANSWER = {
    "conversation": ("messages", "completion", "assistant", "text"),
    "preference": ("chosen", "rejected"),
    "unpaired": ("messages", "completion", "assistant"),
    "prompts": ("reference",),
}


class RowTexts(NamedTuple):
    """Row-aligned: `prompts` and `answers` as text, `chosen` and `rejected` in characters, `labels` of KTO.

    `turns` is the number of messages of a conversation, `rest` a hash of what else makes a row what it is:
    tools, history, label, and the columns that a prompt carries along.
    """

    prompts: pl.Series
    answers: pl.Series
    chosen: pl.Series | None = None
    rejected: pl.Series | None = None
    labels: pl.Series | None = None
    turns: pl.Series | None = None
    rest: npt.NDArray[np.uint64] | None = None


def texts_of(batch: Batch, layout: Layout) -> RowTexts:
    """The words of a batch."""
    frame = to_polars(batch.table, layout) if batch.table is not None else None
    columns = _columns(frame, layout) if frame is not None else None
    if columns is None:
        rows = batch.rows()
        columns = {}
        for slot, path in layout.columns.items():
            columns |= _words_of_rows(rows, path, layout, slot)
    labels = columns.pop("label", None)
    asked = [columns[slot].before for slot in _BEFORE if slot in columns]
    if layout.kind == "preference" and not asked:  # the prompt is how both answers begin
        asked = [columns["chosen"].before]
    answered = [columns[slot].last for slot in _ANSWER[layout.kind] if slot in columns]
    if layout.kind == "prompts" and "messages" in columns:
        asked.append(columns["messages"].last)
    pair = [_answer_length(columns[slot], layout) for slot in ("chosen", "rejected") if slot in columns]
    return RowTexts(
        _joined(asked, batch.num_rows),
        _joined(answered, batch.num_rows),
        pair[0] if len(pair) == 2 else None,
        pair[1] if len(pair) == 2 else None,
        labels.last if labels is not None else None,
        columns["messages"].turns if "messages" in columns else None,
        _rest(batch, layout),
    )


def _rest(batch: Batch, layout: Layout) -> npt.NDArray[np.uint64] | None:
    slots = [slot for slot in ("tools", "history", "label") if slot in layout.columns]
    if not slots and layout.kind != "prompts":
        return None
    spoken = {layout.columns[slot] for slot in ("prompt", "user", "messages") if slot in layout.columns}
    hashes = []
    for row in batch.rows():
        values: Any = {slot: get_path(row, layout.columns[slot]) for slot in slots}
        if layout.kind == "prompts" and isinstance(row, dict):
            values = {name: value for name, value in row.items() if name not in spoken}
        said = json.dumps(without_nulls(values), sort_keys=True, default=str)
        hashes.append(int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "little"))
    return np.array(hashes, dtype=np.uint64)


def _answer_length(words: _Words, layout: Layout) -> pl.Series:
    """Characters of an answer, the prompt before it aside."""
    last = words.last.str.split("\n\nAssistant:").list.last() if layout.name == "hh-rlhf" else words.last
    return last.str.len_chars()


class _Words(NamedTuple):
    """Of one slot: what stands before its last message, the last message, and how many messages there are.

    A label has itself in the place of both.
    """

    before: pl.Series
    last: pl.Series
    turns: pl.Series | None = None


def _columns(frame: pl.DataFrame, layout: Layout) -> dict[str, _Words] | None:
    found = {}
    for slot in layout.columns:
        if slot == "ranked":
            if frame[slot].dtype != pl.List(pl.String):
                return None
            better_and_worse = {"chosen": frame[slot].list.get(0, null_on_oob=True)}
            better_and_worse["rejected"] = frame[slot].list.get(1, null_on_oob=True)
            parts = {name: _words_of_column(each, layout, name) for name, each in better_and_worse.items()}
        else:
            parts = {slot: _words_of_column(frame[slot], layout, slot)}
        for name, words in parts.items():
            if words is None:
                return None
            found[name] = words
    return found


def _words_of_column(column: pl.Series, layout: Layout, slot: str) -> _Words | None:
    empty = pl.repeat("", len(column), eager=True, dtype=pl.String)
    if slot in _UNSPOKEN:
        return _Words(empty, empty)
    if slot == "label":
        return _Words(column, column) if column.dtype == pl.Boolean else None
    if column.dtype == pl.String:
        text = column.fill_null("")
        # A text column that stands before the answer is all before; one that is the answer is all last.
        return _Words(text if slot in ("system", "prompt", "user", "input") else empty, text)
    if isinstance(column.dtype, pl.Struct):
        return _words_of_message(column, layout)
    if not (isinstance(column.dtype, pl.List) and isinstance(column.dtype.inner, pl.Struct)):
        return None
    inner = {field.name: field.dtype for field in column.dtype.inner.fields}
    if inner.get(layout.content_key) != pl.String or _has_calls(column, inner):
        return None
    said = column.list.eval(pl.element().struct.field(layout.content_key)).list.drop_nulls()
    every = pl.col(said.name)
    # All of a prompt stands before the answer; of other conversations all but the last message.
    num_before = every.list.len().cast(pl.Int64) - (slot != "prompt")
    frame = said.to_frame().select(
        before=every.list.head(num_before.clip(0)).list.join("\n").fill_null(""),
        last=every.list.last().fill_null(""),
    )
    return _Words(frame["before"], frame["last"], column.list.len().fill_null(0))


def _has_calls(column: pl.Series, fields: Mapping[str, Any]) -> bool:
    """True where some message calls a tool, which is part of what it says."""
    if "tool_calls" not in fields:
        return False
    calls = column.list.explode(empty_as_null=False, keep_nulls=False).struct.field("tool_calls")
    return calls.null_count() < len(calls)


def _words_of_message(column: pl.Series, layout: Layout) -> _Words | None:
    if layout.content_key not in column.struct.fields:
        return None
    content = column.struct.field(layout.content_key)
    if content.dtype != pl.String:
        return None
    text = content.fill_null("")
    return _Words(pl.repeat("", len(column), eager=True, dtype=pl.String), text)


def _words_of_rows(rows: Sequence[Row | BadRow], path: str, layout: Layout, slot: str) -> dict[str, _Words]:
    values = [None if isinstance(row, BadRow) else get_path(row, path) for row in rows]
    if slot == "label":
        labels = pl.Series([read_label(value) for value in values], dtype=pl.Boolean)
        return {slot: _Words(labels, labels)}
    if slot == "ranked":
        sides = {"chosen": 0, "rejected": 1}
        return {
            name: _words_of_values([_item(value, index) for value in values], layout, name)
            for name, index in sides.items()
        }
    return {slot: _words_of_values(values, layout, slot)}


def _item(values: Any, index: int) -> Any:
    return values[index] if isinstance(values, list) and len(values) > index else None


def _words_of_values(values: Sequence[Any], layout: Layout, slot: str) -> _Words:
    parts = [_pieces(value, layout, slot) for value in values]
    all_before = slot in ("prompt", "system", "user", "input")
    before = [_text("\n".join(each if all_before else each[:-1])) for each in parts]
    last = [_text(each[-1]) if each else "" for each in parts]
    turns = [len(value) if isinstance(value, list) else 0 for value in values]
    return _Words(
        pl.Series(before, dtype=pl.String),
        pl.Series(last, dtype=pl.String),
        pl.Series(turns, dtype=pl.UInt32),
    )


def _pieces(value: Any, layout: Layout, slot: str) -> list[str]:
    if slot in _UNSPOKEN:
        return []
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        plain = isinstance(value, str) or (slot == "reference" and isinstance(value, int | float))
        return [str(value)] if plain else []
    found = [_content(each, layout) for each in value]
    return [each for each in found if each is not None]


def _content(message: Any, layout: Layout) -> str | None:
    content = message.get(layout.content_key) if isinstance(message, dict) else message
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(part for part in parts if isinstance(part, str))
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    if calls:
        said = json.dumps(without_nulls(calls), sort_keys=True, default=str)
        return f"{content}\n{said}" if isinstance(content, str) else said
    return content if isinstance(content, str) else None


def _text(text: str) -> str:
    """`text` without half characters, which no column can hold."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def _joined(columns: Sequence[pl.Series], length: int) -> pl.Series:
    if not columns:
        return pl.repeat("", length, eager=True, dtype=pl.String)
    if len(columns) == 1:
        return columns[0]
    frame = pl.DataFrame({str(index): column for index, column in enumerate(columns)})
    return frame.select(pl.concat_str(pl.all(), separator="\n")).to_series()
