"""What a row looks like: `messages`, `prompt`/`completion` or `text`, decided from the columns."""

from __future__ import annotations

import json
from typing import Any, Literal

from tunesmith.config.run_config import DatasetSource
from tunesmith.errors import DataError

Format = Literal["messages", "prompt-completion", "text"]
_COLUMNS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
}
_KINDS: dict[type, str] = {
    bool: "truth value", int: "number", float: "number", str: "text", list: "list", dict: "table",
}  # fmt: skip
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


def detect_format(columns: list[str], source: DatasetSource) -> Format:
    """The format that `columns` fit.

    Raises:
        DataError: none fits.
    """
    for name, needed in _COLUMNS.items():
        if set(needed) <= set(columns):
            return name
    raise DataError(
        f"{source.path} has the columns {', '.join(columns)}, and SFT can't tell what to train on",
        where=source.path,
        fix="name them messages, prompt and completion, or text",
    )


def check_row(row: dict[str, Any], format_name: Format) -> tuple[str, str] | None:
    """The first fault of a row as (field, sentence), or None when it can be rendered."""
    fault = _check_tools(row.get("tools"))
    if fault:
        return fault
    if format_name == "text":
        return _check_string(row["text"], "text")
    if format_name == "messages":
        return _check_messages(row["messages"], "messages", needs_assistant=True)
    for field in ("prompt", "completion"):
        value = row[field]
        fault = (
            _check_messages(value, field, needs_assistant=field == "completion")
            if isinstance(value, list)
            else _check_string(value, field)
        )
        if fault:
            return fault
    if isinstance(row["prompt"], list) != isinstance(row["completion"], list):
        return "completion", "prompt and completion should both be text or both be lists of messages"
    return None


def _check_string(value: Any, field: str) -> tuple[str, str] | None:
    if not isinstance(value, str):
        return field, f"is {_kind(value)}, should be text"
    return None if value.strip() else (field, "is empty")


def _check_messages(messages: Any, field: str, *, needs_assistant: bool) -> tuple[str, str] | None:
    if not isinstance(messages, list) or not messages:
        return field, "is empty" if messages == [] else f"is {_kind(messages)}, should be a list of messages"
    for index, message in enumerate(messages):
        place = f"{field}[{index}]"
        if not isinstance(message, dict):
            return place, f"is {_kind(message)}, should be an object with role and content"
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            said = repr(role) if isinstance(role, str) else _kind(role)
            return f"{place}.role", f"is {said}, should be one of {', '.join(sorted(ROLES))}"
        fault = _check_content(message, f"{place}.content")
        if fault:
            return fault
    if needs_assistant and all(message["role"] != "assistant" for message in messages):
        return field, "has no assistant turn to learn from"
    return None


def _check_content(message: dict[str, Any], place: str) -> tuple[str, str] | None:
    content = message.get("content")
    if content is None and message["role"] == "assistant" and message.get("tool_calls"):
        return None
    if not isinstance(content, str | list):
        return place, f"is {_kind(content)}, should be text"
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict) or part.get("type", "text") not in ("text", None):
            kind = part.get("type") if isinstance(part, dict) else _kind(part)
            return f"{place}[{index}]", f"is {kind!r}; only text can be trained on"
        if not isinstance(part.get("text"), str):
            return f"{place}[{index}].text", f"is {_kind(part.get('text'))}, should be text"
    words = content if isinstance(content, str) else "".join(part["text"] for part in content)
    # An empty system prompt or tool answer is common and harmless; a turn without words teaches nothing.
    if message["role"] in ("user", "assistant") and not words.strip() and not message.get("tool_calls"):
        return place, "is empty"
    return None


def _check_tools(tools: Any) -> tuple[str, str] | None:
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            return "tools", "is no valid JSON"
    if tools is not None and not isinstance(tools, list):
        return "tools", f"is {_kind(tools)}, should be a list of tools"
    return None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    name = _KINDS.get(type(value), type(value).__name__)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
