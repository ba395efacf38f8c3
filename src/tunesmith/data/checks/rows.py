"""The judge: everything that is wrong with one row. What the columnar screen can't clear comes here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tunesmith.data.checks.pieces import GROUPS, ChatChecker, Fault, Group, absent, check_text
from tunesmith.data.checks.tools import check_tools
from tunesmith.data.findings import Finding
from tunesmith.data.layout import MISSING, Layout, get_path, kind_of
from tunesmith.data.pairs import common_prompt, is_transcript, same_answer

Row = dict[str, Any]
LABELS: dict[Any, bool] = {
    True: True, False: False, "true": True, "false": False, "1": True, "0": False, "yes": True, "no": False,
}  # fmt: skip


class BadRow(str):
    """A row that couldn't be read, as the sentence that says why."""


class RowChecker:
    """Judges rows of one layout."""

    def __init__(self, layout: Layout, groups: frozenset[Group] = GROUPS) -> None:
        self._layout = layout
        self._groups = groups
        self._chat = ChatChecker(layout, groups)
        kinds: dict[str, Callable[[Row], Iterator[Fault]]] = {
            "conversation": self._conversation,
            "preference": self._preference,
            "unpaired": self._unpaired,
            "prompts": self._prompts,
        }
        self._check = kinds[layout.kind]

    def __call__(self, row: Row | BadRow, number: int) -> list[Finding]:
        """All findings of a row, in the order of its fields."""
        if isinstance(row, BadRow):
            return [Finding("D001", number, None, str(row))] if "structure" in self._groups else []
        if not isinstance(row, dict):
            return [Finding("D001", number, None, f"is {kind_of(row)}, should be an object")]
        return [Finding(code, number, field, message) for code, field, message in self._check(row)]

    def _conversation(self, row: Row) -> Iterator[Fault]:
        columns = self._layout.columns
        if "messages" in columns:
            yield from self._slot_tools(row)
            yield from self._optional(row, "system")
            value = self._value(row, "messages")
            yield from self._chat.check(
                value, columns["messages"], answer=True, tools=self._value(row, "tools")
            )
        elif "text" in columns:
            yield from self._text(row, "text")
        elif "prompt" in columns:
            yield from self._slot_tools(row)
            yield from self._prompt_and(row, "completion")
        else:
            yield from self._single_turns(row)
            yield from self._text(row, "assistant")

    def _preference(self, row: Row) -> Iterator[Fault]:
        columns = self._layout.columns
        yield from self._asked(row)
        if "ranked" in columns:
            yield from self._ranked(row)
            return
        values = [self._value(row, slot) for slot in ("chosen", "rejected")]
        before = []
        for slot, value in zip(("chosen", "rejected"), values, strict=True):
            before += list(self._answer(value, columns[slot], self._value(row, "tools")))
        yield from before
        if "structure" in self._groups and {type(value) for value in values} == {str, list}:
            yield Fault("D005", columns["rejected"], "and chosen should both be text or both be messages")
            return
        if "method" in self._groups and not any(fault.code in ("D002", "D003", "D005") for fault in before):
            yield from self._pair(values[0], values[1])

    def _pair(self, chosen: Any, rejected: Any) -> Iterator[Fault]:
        place = self._layout.columns["rejected"]
        if not isinstance(chosen, str | list | dict) or not isinstance(rejected, str | list | dict):
            return
        if same_answer(chosen, rejected, self._layout):
            yield Fault("D101", place, "is the same as chosen")
        elif common_prompt(chosen, rejected, self._layout) is None:
            yield Fault("D102", place, "does not go with the prompt of chosen")

    def _ranked(self, row: Row) -> Iterator[Fault]:
        place, value = self._layout.columns["ranked"], self._value(row, "ranked")
        if not isinstance(value, list) or len(value) != 2:
            if "structure" in self._groups:
                said = f"{len(value)} answers" if isinstance(value, list) else kind_of(value)
                yield absent(value, place) or Fault(
                    "D005", place, f"is {said}, should be the better and the worse"
                )
            return
        for index, answer in enumerate(value):
            yield from check_text(answer, f"{place}[{index}]", self._groups)
        both_text = all(isinstance(each, str) for each in value)
        if "method" in self._groups and both_text and value[0].strip() == value[1].strip():
            yield Fault("D101", f"{place}[1]", "is the same as chosen")

    def _unpaired(self, row: Row) -> Iterator[Fault]:
        columns = self._layout.columns
        if "completion" in columns and "prompt" in columns:
            yield from self._prompt_and(row, "completion")
        else:
            yield from self._asked(row, answer=True)
            slot = "completion" if "completion" in columns else "assistant"
            if slot in columns:
                yield from self._answer(self._value(row, slot), columns[slot], None)
        label = self._value(row, "label")
        if "structure" in self._groups and read_label(label) is None:
            wrong = Fault("D005", columns["label"], f"is {_shown(label)}, should be true or false")
            yield absent(label, columns["label"]) or wrong

    def _prompts(self, row: Row) -> Iterator[Fault]:
        columns = self._layout.columns
        yield from self._asked(row)
        if "reference" in columns and "method" in self._groups:
            value = self._value(row, "reference")
            if value in (None, MISSING) or (isinstance(value, str) and not value.strip()):
                yield Fault("D106", columns["reference"], "is empty: there is nothing to judge answers by")

    def _asked(self, row: Row, *, answer: bool | None = False) -> Iterator[Fault]:
        """Faults of the question: a prompt, a conversation, single columns, or none."""
        columns = self._layout.columns
        yield from self._slot_tools(row)
        if "messages" in columns:
            yield from self._optional(row, "system")
            value = self._value(row, "messages")
            yield from self._chat.check(
                value, columns["messages"], answer=answer, tools=self._value(row, "tools")
            )
        elif "prompt" in columns:
            value = self._value(row, "prompt")
            if isinstance(value, list):
                yield from self._chat.check(value, columns["prompt"], answer=False)
            else:
                yield from check_text(value, columns["prompt"], self._groups)
        elif "user" in columns:
            yield from self._single_turns(row)

    def _answer(self, value: Any, place: str, tools: Any) -> Iterator[Fault]:
        if isinstance(value, list | dict):
            yield from self._chat.check(value, place, answer=True, tools=tools)
        elif isinstance(value, str) and is_transcript(value) is False and self._layout.name == "hh-rlhf":
            yield Fault("D005", place, "is no transcript of Human: and Assistant: turns")
        else:
            yield from check_text(value, place, self._groups)

    def _prompt_and(self, row: Row, slot: str) -> Iterator[Fault]:
        places = {name: self._layout.columns[name] for name in ("prompt", slot)}
        values = {name: self._value(row, name) for name in places}
        for name, value in values.items():
            if isinstance(value, list):
                yield from self._chat.check(value, places[name], answer=name != "prompt")
            else:
                yield from check_text(value, places[name], self._groups)
        if "structure" in self._groups and {type(value) for value in values.values()} == {str, list}:
            yield Fault(
                "D005", places[slot], "and the prompt should both be text or both be lists of messages"
            )

    def _single_turns(self, row: Row) -> Iterator[Fault]:
        yield from self._optional(row, "system")
        yield from self._history(row)
        yield from self._text(row, "user")
        yield from self._optional(row, "input")

    def _history(self, row: Row) -> Iterator[Fault]:
        if "history" not in self._layout.columns:
            return
        place, value = self._layout.columns["history"], self._value(row, "history")
        if value in (None, MISSING, "", []):
            return
        if not isinstance(value, list):
            if "structure" in self._groups:
                yield Fault("D005", place, f"is {kind_of(value)}, should be a list of [question, answer]")
            return
        for index, pair in enumerate(value):
            if not isinstance(pair, list) or len(pair) != 2:
                if "structure" in self._groups:
                    yield Fault("D005", f"{place}[{index}]", "should be [question, answer]")
                continue
            for side, text in enumerate(pair):
                yield from check_text(text, f"{place}[{index}][{side}]", self._groups)

    def _slot_tools(self, row: Row) -> Iterator[Fault]:
        if "tools" in self._layout.columns and "structure" in self._groups:
            for code, path, message in check_tools(self._value(row, "tools")):
                yield Fault(code, f"{self._layout.columns['tools']}{path}", message)

    def _text(self, row: Row, slot: str) -> Iterator[Fault]:
        yield from check_text(self._value(row, slot), self._layout.columns[slot], self._groups)

    def _optional(self, row: Row, slot: str) -> Iterator[Fault]:
        if slot in self._layout.columns:
            value, place = self._value(row, slot), self._layout.columns[slot]
            yield from check_text(value, place, self._groups, required=False)

    def _value(self, row: Row, slot: str) -> Any:
        return get_path(row, self._layout.columns[slot]) if slot in self._layout.columns else None


def read_label(value: Any) -> bool | None:
    """A KTO label as a truth value; None where it can't be read as one."""
    key = value.strip().lower() if isinstance(value, str) else value
    return LABELS.get(key) if isinstance(key, bool | int | str) else None


def _shown(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, str | int | float) else kind_of(value)
