"""The screen: which rows of a batch may hold a fault, decided on whole columns.

It clears the many; the judge (`rows`) looks at the few. It may flag a clean row and must never clear one that
the judge would fault, which property tests hold. What it has no fast answer for it flags.
"""

from __future__ import annotations

from functools import reduce
from operator import or_

import numpy as np
import polars as pl
import pyarrow as pa

from tunesmith.data.checks import secrets, text
from tunesmith.data.checks.rows import GROUPS, Group
from tunesmith.data.layout import Layout

_OPTIONAL = frozenset({"system", "input"})
# Slots whose plain text is part of what is learned; `reference` is looked at for being there only.
_TEXTS = ("text", "user", "assistant", "prompt", "completion", "chosen", "rejected", "system", "input")
# Keys of a message that say nothing a screen has to look at.
_QUIET_KEYS = frozenset({"name", "train", "id"})


class Screen:
    """Flags rows of one layout."""

    def __init__(self, layout: Layout, groups: frozenset[Group] = GROUPS) -> None:
        self._layout = layout
        self._groups = groups
        self._standard = dict(layout.roles)

    def suspects(self, table: pa.Table) -> list[int]:
        """The indices of the rows that the judge has to see."""
        frame = to_polars(table, self._layout)
        if frame is None:
            return list(range(table.num_rows))
        flags = [self._slot(frame, slot) for slot in self._layout.columns]
        flags += [self._compared(frame)] if "method" in self._groups else []
        flags += [self._unlike(frame)] if "structure" in self._groups else []
        flagged: pl.Series = reduce(or_, flags)
        return flagged.arg_true().to_list()

    def _slot(self, frame: pl.DataFrame, slot: str) -> pl.Series:
        """A flag a row for one slot."""
        column = frame[slot]
        if slot == "reference":
            return self._reference(column)
        if slot == "label":
            return column.is_null() if column.dtype == pl.Boolean else _all(column)
        if slot == "ranked":
            return _all(column)
        if slot in ("tools", "history", "media"):
            return column.is_not_null()  # rare, nested and various: the judge reads them
        if column.dtype == pl.String and slot in _TEXTS:
            return self._text(column, required=slot not in _OPTIONAL)
        if isinstance(column.dtype, pl.List) and isinstance(column.dtype.inner, pl.Struct):
            return self._chat(column, slot)
        if isinstance(column.dtype, pl.Struct) and slot in ("chosen", "rejected"):
            return self._chat(column.reshape((-1, 1)).arr.to_list(), slot, single=True)
        return column.is_not_null() if slot in _OPTIONAL else _all(column)

    def _text(self, column: pl.Series, *, required: bool) -> pl.Series:
        flags = [self._words(column)]
        if required and "structure" in self._groups:
            flags.append(column.is_null() | column.str.contains(text.BLANK).fill_null(True))
        if self._layout.name == "hh-rlhf":
            flags.append(_strange_transcripts(column))
        return reduce(or_, flags)

    def _words(self, column: pl.Series) -> pl.Series:
        """A flag for every string that may hold something that text should not."""
        words, found = pl.col("words"), []
        if "structure" in self._groups:
            if _may_hold_controls(column):
                found.append(words.str.contains(text.CONTROL))
            found.append(words.str.contains(text.CONTROL_TOKENS) | (words.str.len_bytes() > text.LARGE_BYTES))
        if "safety" in self._groups:
            found += [words.str.contains(pattern) for pattern in (secrets.SCREEN, secrets.EMAIL_SCREEN)]
        if not found:
            return pl.repeat(False, len(column), eager=True)
        # One column an expression: polars spreads them over the cores.
        flags = column.alias("words").to_frame().select(each.alias(str(n)) for n, each in enumerate(found))
        return reduce(or_, flags.get_columns()).fill_null(False)

    def _chat(self, column: pl.Series, slot: str, *, single: bool = False) -> pl.Series:
        lengths = column.list.len()
        messages = column.explode(empty_as_null=False, keep_nulls=False)
        names = [field.name for field in messages.dtype.fields]  # type: ignore[attr-defined]
        layout = self._layout
        if layout.role_key not in names or layout.content_key not in names:
            return _all(column)
        role, content = messages.struct.field(layout.role_key), messages.struct.field(layout.content_key)
        if role.dtype != pl.String or content.dtype != pl.String:
            return _all(column)
        flags = [self._words(content)]
        if "structure" in self._groups:
            said = self._standard_roles(role)
            speaks = (said == "user") | (said == "assistant")
            flags += [said.is_null(), content.is_null(), said == "tool", messages.is_null()]
            flags.append(speaks & content.str.contains(text.BLANK))
            flags += [messages.struct.field(each).is_not_null() for each in names if self._is_loud(each)]
        bad_message = reduce(or_, flags).fill_null(True)
        owners = _owners(lengths)
        bad = pl.repeat(False, len(column), eager=True).to_frame("bad").to_series()
        hit = owners.filter(bad_message).unique()
        bad = bad.scatter(hit, True) if len(hit) else bad
        if "structure" not in self._groups:
            return bad
        return (
            bad | lengths.is_null() | (lengths == 0) | self._order(said, owners, lengths, slot, single=single)
        )

    def _standard_roles(self, role: pl.Series) -> pl.Series:
        """The standard names of roles; null for those that are unknown."""
        if all(said == standard for said, standard in self._standard.items()):
            return role.set(~role.is_in(list(self._standard)), None)
        return role.replace_strict(self._standard, default=None, return_dtype=pl.String)

    def _is_loud(self, key: str) -> bool:
        return key not in (*_QUIET_KEYS, self._layout.role_key, self._layout.content_key)

    def _order(
        self, said: pl.Series, owners: pl.Series, lengths: pl.Series, slot: str, *, single: bool
    ) -> pl.Series:
        """Rows whose turns don't go system?, user, assistant, user, assistant ..., as the slot needs it."""
        frame = pl.DataFrame({"row": owners, "role": said}).with_columns(
            before=pl.col("role").shift(1), same=pl.col("row") == pl.col("row").shift(1)
        )
        first = ~frame["same"].fill_null(False)
        role, before = frame["role"], frame["before"]
        after_system = ~first & (before == "system")
        good = (
            (first & (role == "system"))
            | ((first | after_system) & (role == "user"))
            | (~first & (role == "user") & (before == "assistant"))
            | (~first & (role == "assistant") & (before == "user"))
        ).fill_null(False)
        needs_answer = slot in ("messages", "completion", "chosen", "rejected") and (
            self._layout.kind in ("conversation", "unpaired") or slot != "messages"
        )
        if single or slot in ("chosen", "rejected", "completion"):
            good = good | (first & (role == "assistant"))
        flags = pl.repeat(False, len(lengths), eager=True)
        wrong = owners.filter(~good).unique()
        last = ~frame["same"].shift(-1).fill_null(False)
        end = "assistant" if needs_answer else "user"
        wrong = pl.concat([wrong, owners.filter(last & (role != end).fill_null(True))]).unique()
        return flags.scatter(wrong, True) if len(wrong) else flags

    def _unlike(self, frame: pl.DataFrame) -> pl.Series:
        """Rows of which one field is text and the other messages, which have to be alike."""
        pairs = [("prompt", "completion")] if self._layout.kind != "preference" else [("chosen", "rejected")]
        for one, other in pairs:
            if {one, other} <= set(frame.columns):
                texts = [frame[name].dtype == pl.String for name in (one, other)]
                if texts[0] != texts[1]:
                    return _all(frame[one])
        return pl.repeat(False, frame.height, eager=True)

    def _compared(self, frame: pl.DataFrame) -> pl.Series:
        """Rows whose answers have to be compared with each other."""
        if (
            self._layout.kind != "preference"
            or "chosen" not in frame.columns
            or "rejected" not in frame.columns
        ):
            return pl.repeat(False, frame.height, eager=True)
        chosen, rejected = (
            _last_words(frame["chosen"], self._layout),
            _last_words(frame["rejected"], self._layout),
        )
        alone = any(slot in self._layout.columns for slot in ("prompt", "user", "messages"))
        if chosen is None or rejected is None or not (alone and _stands_alone(frame)):
            return _all(frame["chosen"])
        return (chosen.str.strip_chars() == rejected.str.strip_chars()).fill_null(True)

    def _reference(self, column: pl.Series) -> pl.Series:
        if column.dtype == pl.String:
            return column.is_null() | column.str.contains(text.BLANK) | self._words(column)
        return column.is_null()


def to_polars(table: pa.Table, layout: Layout) -> pl.DataFrame | None:
    """One column a slot; None where a column is missing or of a type that polars doesn't take."""
    columns = {}
    for slot, path in layout.columns.items():
        root, *rest = [path] if path in table.column_names else path.split(".")
        if root not in table.column_names:
            return None
        column = table.column(root)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        try:
            series = pl.Series(pl.from_arrow(column))
            for name in rest:
                series = series.struct.field(name)
        except Exception:  # an Arrow type that polars lacks, or no struct: the judge reads the rows instead
            return None
        columns[slot] = series.alias(slot)
    return pl.DataFrame(columns)


def _may_hold_controls(column: pl.Series) -> bool:
    """False where no string of a column can match CONTROL: told from bytes, ten times as fast as matching."""
    buffer = column.to_arrow().buffers()[-1]
    if buffer is None:
        return False
    characters = np.frombuffer(buffer, dtype=np.uint8)
    below_space = characters[characters < 0x20]
    if not np.isin(below_space, (0x09, 0x0A, 0x0C, 0x0D)).all() or (characters == 0x7F).any():
        return True
    # C1 characters are C2 and a byte below A0 in UTF-8.
    leads = np.flatnonzero(characters[:-1] == 0xC2)
    return bool((characters[leads + 1] < 0xA0).any())


def _strange_transcripts(column: pl.Series) -> pl.Series:
    """hh-rlhf transcripts that don't begin with a human, end with one, or have an empty turn."""
    empty_turn = rf"(?:^|\n\n)\s*(?:Human|Assistant): ?[{text.INVISIBLE}]*(?:\n\n(?:Human|Assistant):|$)"
    flags = [
        ~column.str.contains(r"^\s*Human:"),
        ~column.str.contains("\n\nAssistant:", literal=True),
        column.str.split("\n\nAssistant:").list.last().str.contains("\n\nHuman:", literal=True),
        column.str.contains(empty_turn),
    ]
    return reduce(or_, flags).fill_null(True)


def _owners(lengths: pl.Series) -> pl.Series:
    """For every message the index of its row."""
    index = pl.int_range(len(lengths), eager=True, dtype=pl.UInt32)
    repeated = index.to_frame("i").with_columns(n=lengths.fill_null(0))
    return repeated.select(pl.col("i").repeat_by("n").explode(empty_as_null=False)).to_series()


def _last_words(column: pl.Series, layout: Layout) -> pl.Series | None:
    """What the last message says, or the text itself; None where neither is there."""
    if column.dtype == pl.String:
        return column
    if isinstance(column.dtype, pl.List):
        column = column.list.last()
    if not isinstance(column.dtype, pl.Struct):
        return None
    words = column.struct.field(layout.content_key) if layout.content_key in column.struct.fields else None
    return words if words is not None and words.dtype == pl.String else None


def _stands_alone(frame: pl.DataFrame) -> bool:
    """True when chosen and rejected are single answers, so that they can't differ in their prompts."""
    for slot in ("chosen", "rejected"):
        column = frame[slot]
        if isinstance(column.dtype, pl.List) and bool((column.list.len() != 1).any()):
            return False
    return frame["chosen"].dtype == frame["rejected"].dtype


def _all(column: pl.Series) -> pl.Series:
    return pl.repeat(True, len(column), eager=True)
