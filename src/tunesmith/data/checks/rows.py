"""The judge: everything that is wrong with one row. What the columnar screen can't clear comes here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tunesmith.data.checks.pieces import ChatChecker, Fault, absent, check_text, check_words
from tunesmith.data.checks.text import is_blank
from tunesmith.data.checks.tools import check_tools
from tunesmith.data.findings import Finding
from tunesmith.data.layout import MISSING, Layout, get_path, kind_of
from tunesmith.data.pairs import common_prompt, is_transcript, same_answer, split_transcript

Row = dict[str, Any]
Group = str
# What a check is about, and how its codes begin; `validate` runs all of them, the benchmark times them apart.
GROUPS: frozenset[Group] = frozenset({"structure", "method", "safety"})
_PREFIXES: dict[Group, str] = {"structure": "D0", "method": "D1", "safety": "D4"}
LABELS: dict[Any, bool] = {
    True: True, False: False, "true": True, "false": False, "1": True, "0": False, "yes": True, "no": False,
    "1.0": True, "0.0": False,
}  # fmt: skip
# Faults of an answer after which a comparison with the other one says nothing more.
_NO_ANSWER = frozenset({"D002", "D003", "D004", "D005", "D006", "D008"})


class BadRow(str):
    """A row that couldn't be read, as the sentence that says why."""


class RowChecker:
    """Judges rows of one layout; `groups` limits what is reported."""

    def __init__(self, layout: Layout, groups: frozenset[Group] = GROUPS) -> None:
        self._layout = layout
        self._prefixes = tuple(_PREFIXES[group] for group in sorted(groups))
        self._safety = "safety" in groups
        self._chat = ChatChecker(layout, safety=self._safety)
        kinds: dict[str, Callable[[Row], Iterator[Fault]]] = {
            "conversation": self._conversation,
            "preference": self._preference,
            "unpaired": self._unpaired,
            "prompts": self._prompts,
        }
        self._by_kind = kinds[layout.kind]

    def __call__(self, row: Row | BadRow, number: int) -> list[Finding]:
        """All findings of a row, in the order of its fields."""
        if isinstance(row, BadRow):
            faults = [Fault("D001", None, str(row))]
        elif isinstance(row, dict):
            faults = list(self._all(row))
        else:
            faults = [Fault("D001", None, f"is {kind_of(row)}, should be an object")]
        return [
            Finding(code, number, field, message)
            for code, field, message in faults
            if code.startswith(self._prefixes)
        ]

    def _all(self, row: Row) -> Iterator[Fault]:
        value = self._value(row, "media")
        if value not in (None, MISSING, [], ""):
            yield Fault("D014", self._layout.columns["media"], "holds images or sounds, not text")
        yield from self._by_kind(row)

    def _conversation(self, row: Row) -> Iterator[Fault]:
        columns = self._layout.columns
        if "messages" in columns:
            yield from self._messages(row, answers=True)
        elif "text" in columns:
            yield from self._text(row, "text")
        elif "prompt" in columns:
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
        chosen, rejected = (self._value(row, slot) for slot in ("chosen", "rejected"))
        faults = [
            fault
            for slot, value in (("chosen", chosen), ("rejected", rejected))
            for fault in self._answer(value, columns[slot], self._value(row, "tools"))
        ]
        yield from faults
        if any(fault.code in _NO_ANSWER for fault in faults):
            return
        if isinstance(chosen, str) != isinstance(rejected, str):
            yield Fault("D005", columns["rejected"], "and chosen should both be text or both be messages")
        elif same_answer(chosen, rejected, self._layout):
            yield Fault("D101", columns["rejected"], "is the same as chosen")
        elif common_prompt(chosen, rejected, self._layout) is None:
            yield Fault("D102", columns["rejected"], "does not go with the prompt of chosen")

    def _ranked(self, row: Row) -> Iterator[Fault]:
        place, value = self._layout.columns["ranked"], self._value(row, "ranked")
        if not isinstance(value, list) or len(value) != 2:
            said = f"{len(value)} answers" if isinstance(value, list) else kind_of(value)
            wrong = Fault("D005", place, f"is {said}, should be the better and the worse")
            yield absent(value, place) or wrong
            return
        for index, answer in enumerate(value):
            yield from check_text(answer, f"{place}[{index}]", safety=self._safety)
        both_text = all(isinstance(each, str) and not is_blank(each) for each in value)
        if both_text and value[0].strip() == value[1].strip():
            yield Fault("D101", f"{place}[1]", "is the same as chosen")

    def _unpaired(self, row: Row) -> Iterator[Fault]:
        columns = self._layout.columns
        if "completion" in columns and "prompt" in columns:
            yield from self._prompt_and(row, "completion")
        elif "messages" in columns:
            yield from self._messages(row, answers=True)
        else:
            yield from self._single_turns(row)
            slot = "completion" if "completion" in columns else "assistant"
            yield from self._answer(self._value(row, slot), columns[slot], None)
        label = self._value(row, "label")
        if read_label(label) is None:
            wrong = Fault("D005", columns["label"], f"is {_shown(label)}, should be true or false")
            yield absent(label, columns["label"]) or wrong

    def _prompts(self, row: Row) -> Iterator[Fault]:
        columns = self._layout.columns
        yield from self._asked(row)
        value = self._value(row, "reference")
        gone = value in (None, MISSING) or (isinstance(value, str) and is_blank(value))
        if isinstance(value, str) and not gone:
            yield from check_words(value, columns["reference"], safety=self._safety)
        if "reference" in columns and gone:
            yield Fault("D106", columns["reference"], "is empty: there is nothing to judge answers by")

    def _asked(self, row: Row) -> Iterator[Fault]:
        """Faults of the question: a prompt, a conversation, single columns, or none."""
        columns = self._layout.columns
        if "messages" in columns:
            yield from self._messages(row, answers=False)
        elif "prompt" in columns:
            yield from self._slot_tools(row)
            yield from self._optional(row, "system")
            value = self._value(row, "prompt")
            if isinstance(value, list):
                yield from self._chat.check(value, columns["prompt"], answers=False)
            else:
                yield from check_text(value, columns["prompt"], safety=self._safety)
        elif "user" in columns:
            yield from self._single_turns(row)

    def _messages(self, row: Row, *, answers: bool) -> Iterator[Fault]:
        yield from self._slot_tools(row)
        yield from self._optional(row, "system")
        value, tools = self._value(row, "messages"), self._value(row, "tools")
        yield from self._chat.check(value, self._layout.columns["messages"], answers=answers, tools=tools)

    def _answer(self, value: Any, place: str, tools: Any) -> Iterator[Fault]:
        if isinstance(value, list | dict):
            # Where no other column asks, comparing both answers tells whether they share a question.
            yield from self._chat.check(value, place, answers=True, asked=True, tools=tools)
        elif isinstance(value, str) and self._layout.name == "hh-rlhf" and not is_blank(value):
            yield from self._transcript(value, place)
        else:
            yield from check_text(value, place, safety=self._safety)

    def _transcript(self, text: str, place: str) -> Iterator[Fault]:
        yield from check_words(text, place, safety=self._safety)
        if not is_transcript(text):
            yield Fault("D005", place, "is no transcript of Human: and Assistant: turns")
            return
        turns = split_transcript(text)
        if any(is_blank(turn["content"]) for turn in turns):
            yield Fault("D004", place, "has a turn that says nothing")
        if turns[-1]["role"] != "assistant":
            yield Fault("D009", place, "ends with a Human: turn, which is not learned")

    def _prompt_and(self, row: Row, slot: str) -> Iterator[Fault]:
        yield from self._slot_tools(row)
        yield from self._optional(row, "system")
        places = {name: self._layout.columns[name] for name in ("prompt", slot)}
        values = {name: self._value(row, name) for name in places}
        tools = self._value(row, "tools")
        for name, value in values.items():
            if isinstance(value, list):
                is_answer = name != "prompt"
                yield from self._chat.check(
                    value, places[name], answers=is_answer, asked=is_answer, tools=tools
                )
            else:
                yield from check_text(value, places[name], safety=self._safety)
        if {type(value) for value in values.values()} == {str, list}:
            yield Fault(
                "D005", places[slot], "and the prompt should both be text or both be lists of messages"
            )

    def _single_turns(self, row: Row) -> Iterator[Fault]:
        yield from self._slot_tools(row)
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
            yield Fault("D005", place, f"is {kind_of(value)}, should be a list of [question, answer]")
            return
        for index, pair in enumerate(value):
            if not isinstance(pair, list) or len(pair) != 2:
                yield Fault("D005", f"{place}[{index}]", "should be [question, answer]")
                continue
            for side, text in enumerate(pair):
                yield from check_text(text, f"{place}[{index}][{side}]", safety=self._safety)

    def _slot_tools(self, row: Row) -> Iterator[Fault]:
        if "tools" in self._layout.columns:
            for code, path, message in check_tools(self._value(row, "tools")):
                yield Fault(code, f"{self._layout.columns['tools']}{path}", message)

    def _text(self, row: Row, slot: str) -> Iterator[Fault]:
        yield from check_text(self._value(row, slot), self._layout.columns[slot], safety=self._safety)

    def _optional(self, row: Row, slot: str) -> Iterator[Fault]:
        if slot in self._layout.columns:
            value, place = self._value(row, slot), self._layout.columns[slot]
            yield from check_text(value, place, safety=self._safety, required=False)

    def _value(self, row: Row, slot: str) -> Any:
        return get_path(row, self._layout.columns[slot]) if slot in self._layout.columns else None


def read_label(value: Any) -> bool | None:
    """A KTO label as a truth value; None where it can't be read as one."""
    key = value.strip().lower() if isinstance(value, str) else value
    return LABELS.get(key) if isinstance(key, bool | int | float | str) else None


def _shown(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, str | int | float) else kind_of(value)
