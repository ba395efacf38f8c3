"""Checks of the pieces that rows are made of: a text, a message, a conversation."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tunesmith.data.checks.secrets import find_secrets
from tunesmith.data.checks.text import is_blank, text_faults
from tunesmith.data.checks.tools import calls_of, check_call, tool_names
from tunesmith.data.layout import CALLING_ROLES, MISSING, Layout, kind_of


class Fault(NamedTuple):
    """A finding before its row is known."""

    code: str
    field: str
    message: str


Group = str
# What a check is about; `validate` runs all of them, the benchmark times them apart.
GROUPS: frozenset[Group] = frozenset({"structure", "method", "safety"})


def absent(value: Any, place: str) -> Fault | None:
    """The fault of a value that isn't there."""
    if value is MISSING:
        return Fault("D002", place, "is missing")
    return Fault("D003", place, "is null") if value is None else None


def check_words(text: str, place: str, groups: frozenset[Group]) -> Iterator[Fault]:
    """What is wrong with words, being blank aside."""
    if "structure" in groups:
        for code, message in text_faults(text):
            yield Fault(code, place, message)
    if "safety" in groups:
        for secret in find_secrets(text):
            yield Fault(secret.code, place, f"holds what looks like {_a(secret.kind)}: {secret.masked}")


def check_text(value: Any, place: str, groups: frozenset[Group], *, required: bool = True) -> Iterator[Fault]:
    """Faults of a field that should hold text; one that isn't required may be missing, null or empty."""
    if not isinstance(value, str):
        gone = absent(value, place)
        if "structure" in groups and (required or gone is None):
            yield gone or Fault("D005", place, f"is {kind_of(value)}, should be text")
        return
    if required and "structure" in groups and is_blank(value):
        yield Fault("D004", place, "is empty" if not value else "is blank")
    yield from check_words(value, place, groups)


class ChatChecker:
    """Checks conversations that speak a layout's names."""

    def __init__(self, layout: Layout, groups: frozenset[Group]) -> None:
        self._layout = layout
        self._groups = groups

    def check(self, value: Any, place: str, *, answer: bool | None, tools: Any = None) -> Iterator[Fault]:
        """Faults of a conversation: with an answer at its end (True), at none (False), or either (None)."""
        messages = [value] if isinstance(value, dict) else value
        if not isinstance(messages, list) or not messages:
            if "structure" in self._groups:
                wrong = Fault("D005", place, f"is {kind_of(value)}, should be a list of messages")
                yield absent(value, place) or (Fault("D004", place, "is empty") if value == [] else wrong)
            return
        places = [place] if isinstance(value, dict) else [f"{place}[{i}]" for i in range(len(messages))]
        faults = [
            fault
            for message, where in zip(messages, places, strict=True)
            for fault in self._message(message, where)
        ]
        yield from faults
        if "structure" not in self._groups or any(fault.code in ("D002", "D005", "D006") for fault in faults):
            return  # what stands above explains what the order would say
        roles = [self._layout.roles.get(message[self._layout.role_key], "") for message in messages]
        yield from self._tools(messages, roles, places, tools)
        yield from _order(roles, places, place, self._layout.role_key, answer, single=isinstance(value, dict))

    def _message(self, message: Any, place: str) -> Iterator[Fault]:
        structure = "structure" in self._groups
        if not isinstance(message, dict):
            if structure:
                yield Fault(
                    "D005", place, f"is {kind_of(message)}, should be an object with role and content"
                )
            return
        said = message.get(self._layout.role_key, MISSING)
        role = self._layout.roles.get(said) if isinstance(said, str) else None
        if structure and role is None:
            yield self._bad_role(said, f"{place}.{self._layout.role_key}")
        if structure and message.get("weight") not in (None, 0, 1):
            yield Fault("D005", f"{place}.weight", f"is {message['weight']!r}, should be 0 or 1")
        content = message.get(self._layout.content_key, MISSING)
        yield from self._content(content, message, role, f"{place}.{self._layout.content_key}")

    def _content(
        self, content: Any, message: dict[str, Any], role: str | None, place: str
    ) -> Iterator[Fault]:
        speaks = role in ("user", "assistant", None) and not message.get("tool_calls")
        if isinstance(content, str):
            if speaks and "structure" in self._groups and is_blank(content):
                yield Fault("D004", place, "is empty" if not content else "is blank")
            yield from check_words(content, place, self._groups)
        elif isinstance(content, list):
            yield from self._parts(content, place, speaks=speaks)
        elif "structure" in self._groups and not (content in (None, MISSING) and message.get("tool_calls")):
            yield absent(content, place) or Fault("D005", place, f"is {kind_of(content)}, should be text")

    def _parts(self, parts: Sequence[Any], place: str, *, speaks: bool) -> Iterator[Fault]:
        structure, words = "structure" in self._groups, ""
        for index, part in enumerate(parts):
            where = f"{place}[{index}]"
            kind = part.get("type") or "text" if isinstance(part, dict) else "text"
            text = part.get("text", MISSING) if isinstance(part, dict) else part
            if kind != "text":
                if structure:
                    yield Fault("D014", where, f"is {_a(str(kind))}, not text")
                return
            if isinstance(text, str):
                words += text
                yield from check_words(text, f"{where}.text", self._groups)
            elif structure:
                wrong = Fault("D014", where, f"is {kind_of(text)}, not text")
                yield absent(text, f"{where}.text") or wrong
                return
        if speaks and structure and is_blank(words):
            yield Fault("D004", place, "is empty" if not words else "is blank")

    def _bad_role(self, said: Any, place: str) -> Fault:
        if not isinstance(said, str):
            return absent(said, place) or Fault("D005", place, f"is {kind_of(said)}, should be text")
        near = difflib.get_close_matches(said.lower(), list(self._layout.roles), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return Fault("D006", place, f"is {said[:40]!r}{hint}")

    def _tools(
        self, messages: Sequence[dict[str, Any]], roles: Sequence[str], places: Sequence[str], tools: Any
    ) -> Iterator[Fault]:
        """Calls against the tools that the row declares, and tool answers against the calls before them."""
        declared, called, ids = tool_names(tools), False, set[str]()
        for message, role, place in zip(messages, roles, places, strict=True):
            if message.get(self._layout.role_key) in CALLING_ROLES:
                calls: Any = message.get(self._layout.content_key)
                found, where = calls_of(calls), f"{place}.{self._layout.content_key}"
            else:
                calls = message.get("tool_calls")
                found, where = calls_of(calls), f"{place}.tool_calls"
            if calls and found is None:
                yield Fault("D010", where, "is no list of calls, each with a name and arguments")
            for index, call in enumerate(found or ()):
                called = True
                ids |= {str(call["id"])} if isinstance(call, dict) and call.get("id") else set()
                for code, message_text in check_call(call, declared):
                    yield Fault(code, f"{where}[{index}]", message_text)
            if role == "tool":
                answered = message.get("tool_call_id")
                if not called:
                    yield Fault("D013", place, "answers a tool, and no tool was called before it")
                elif answered and ids and str(answered) not in ids:
                    yield Fault(
                        "D013", f"{place}.tool_call_id", f"is {answered!r}, the id of no call before it"
                    )


def _order(
    roles: Sequence[str], places: Sequence[str], place: str, key: str, answer: bool | None, *, single: bool
) -> Iterator[Fault]:
    """Faults in who speaks when."""
    before = ""
    for index, (role, where) in enumerate(zip(roles, places, strict=True)):
        if role in ("system", "developer") and index and before not in ("system", "developer"):
            yield Fault("D007", f"{where}.{key}", f"is {role}, and the conversation has begun")
        elif role == before and role in ("user", "assistant"):
            yield Fault("D007", f"{where}.{key}", f"is {role} twice in a row")
        elif role == "assistant" and before in ("", "system", "developer") and answer and len(roles) > 1:
            yield Fault("D007", f"{where}.{key}", "is assistant, and nobody asked")
        before = role
    if answer and "assistant" not in roles:
        yield Fault("D008", place, "has no assistant turn to learn from")
    elif answer and roles[-1] != "assistant":
        yield Fault("D009", f"{places[-1]}.{key}", f"is {roles[-1]}: this last turn is not learned")


def _a(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeioAEIO' else 'a'} {noun}"
