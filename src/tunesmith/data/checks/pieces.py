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
    field: str | None
    message: str


def absent(value: Any, place: str) -> Fault | None:
    """The fault of a value that isn't there."""
    if value is MISSING:
        return Fault("D002", place, "is missing")
    return Fault("D003", place, "is null") if value is None else None


def empty(text: str, place: str) -> Iterator[Fault]:
    """The fault of text in which nothing is to be seen."""
    if is_blank(text):
        yield Fault("D004", place, "is blank" if text else "is empty")


def check_words(text: str, place: str, *, safety: bool) -> Iterator[Fault]:
    """What is wrong with words, being blank aside; with `safety` also the secrets in them."""
    for code, message in text_faults(text):
        yield Fault(code, place, message)
    for secret in find_secrets(text) if safety else ():
        yield Fault(secret.code, place, f"holds what looks like {_a(secret.kind)}: {secret.masked}")


def check_text(value: Any, place: str, *, safety: bool, required: bool = True) -> Iterator[Fault]:
    """Faults of a field that should hold text; one that isn't required may be missing, null or empty."""
    if isinstance(value, str):
        if required:
            yield from empty(value, place)
        yield from check_words(value, place, safety=safety)
        return
    gone = absent(value, place)
    if required or gone is None:
        yield gone or Fault("D005", place, f"is {kind_of(value)}, should be text")


def strings(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Path and text of every string in a value."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from strings(inner, f"{place}[{index}]")


class ChatChecker:
    """Checks conversations that speak a layout's names."""

    def __init__(self, layout: Layout, *, safety: bool) -> None:
        self._layout = layout
        self._safety = safety

    def check(
        self, value: Any, place: str, *, answers: bool, asked: bool = False, tools: Any = None
    ) -> Iterator[Fault]:
        """Faults of a conversation.

        `answers`: it holds what is learned, so it needs the assistant, at its end. `asked`: the question
        stands in another column, so the assistant may begin, and may be one message outside of a list.
        """
        single = asked and isinstance(value, dict)
        messages = [value] if single else value
        if not isinstance(messages, list) or not messages:
            wrong = Fault("D005", place, f"is {kind_of(value)}, should be a list of messages")
            yield absent(value, place) or (Fault("D004", place, "is empty") if value == [] else wrong)
            return
        places = [place] if single else [f"{place}[{i}]" for i in range(len(messages))]
        for message, where in zip(messages, places, strict=True):
            yield from self._message(message, where)
        key = self._layout.role_key
        said = [message.get(key) if isinstance(message, dict) else None for message in messages]
        roles = [self._layout.roles.get(role) if isinstance(role, str) else None for role in said]
        known = [role for role in roles if role is not None]
        if len(known) < len(roles):
            return  # what was found above explains what the order would say
        yield from self._tools(messages, known, places, tools)
        yield from _order(known, places, key, asked=asked)
        if not answers and "user" not in known:
            yield Fault("D004", place, "asks nothing: no turn is the user's")
        if answers and "assistant" not in known:
            yield Fault("D008", place, "has no assistant turn to learn from")
        elif answers and known[-1] != "assistant":
            yield Fault("D009", f"{places[-1]}.{key}", f"is {known[-1]}: this last turn is not learned")

    def _message(self, message: Any, place: str) -> Iterator[Fault]:
        if not isinstance(message, dict):
            wrong = f"is {kind_of(message)}, should be an object with role and content"
            yield absent(message, place) or Fault("D005", place, wrong)
            return
        said = message.get(self._layout.role_key, MISSING)
        role = self._layout.roles.get(said) if isinstance(said, str) else None
        if role is None:
            yield self._bad_role(said, f"{place}.{self._layout.role_key}")
        if message.get("weight") not in (None, 0, 1):
            yield Fault("D005", f"{place}.weight", f"is {kind_of(message['weight'])}, should be 0 or 1")
        for key in message.keys() - {self._layout.role_key, self._layout.content_key}:
            for path, text in strings(message[key], f"{place}.{key}"):
                yield from check_words(text, path, safety=self._safety)
        content = message.get(self._layout.content_key, MISSING)
        yield from self._content(content, message, role, f"{place}.{self._layout.content_key}")

    def _content(
        self, content: Any, message: dict[str, Any], role: str | None, place: str
    ) -> Iterator[Fault]:
        speaks = role in ("user", "assistant", None) and not message.get("tool_calls")
        if isinstance(content, str):
            if speaks:
                yield from empty(content, place)
            yield from check_words(content, place, safety=self._safety)
        elif isinstance(content, list):
            yield from self._parts(content, place, speaks=speaks)
        elif not (content in (None, MISSING) and message.get("tool_calls")):
            yield absent(content, place) or Fault("D005", place, f"is {kind_of(content)}, should be text")

    def _parts(self, parts: Sequence[Any], place: str, *, speaks: bool) -> Iterator[Fault]:
        words = ""
        for index, part in enumerate(parts):
            where = f"{place}[{index}]"
            kind = part.get("type") or "text" if isinstance(part, dict) else "text"
            text = part.get("text", MISSING) if isinstance(part, dict) else part
            if kind != "text":
                yield Fault("D014", where, f"is {_a(str(kind))}, not text")
                return
            if not isinstance(text, str):
                wrong = Fault("D014", where, f"is {kind_of(text)}, not text")
                yield absent(text, f"{where}.text") or wrong
                return
            words += text
            yield from check_words(text, f"{where}.text", safety=self._safety)
        if speaks:
            yield from empty(words, place)

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
                called = True
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


def _order(roles: Sequence[str], places: Sequence[str], key: str, *, asked: bool) -> Iterator[Fault]:
    """Faults in who speaks when."""
    before = ""
    for index, (role, where) in enumerate(zip(roles, places, strict=True)):
        if role in ("system", "developer") and index and before not in ("system", "developer"):
            yield Fault("D007", f"{where}.{key}", f"is {role}, and the conversation has begun")
        elif role == before and role in ("user", "assistant"):
            yield Fault("D007", f"{where}.{key}", f"is {role} twice in a row")
        elif role == "assistant" and before in ("", "system", "developer") and not asked:
            yield Fault("D007", f"{where}.{key}", "is assistant, and nobody asked")
        before = role


def _a(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeioAEIO' else 'a'} {noun}"
