"""What a row looks like: `messages`, `prompt`/`completion` or `text`, decided from the columns."""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.config.run_config import DatasetSource
from tunesmith.errors import DataError

Format = Literal["messages", "prompt-completion", "text"]
_COLUMNS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
}
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
        if message.get("role") not in ROLES:
            return f"{place}.role", f"is {message.get('role')!r}, should be one of {', '.join(sorted(ROLES))}"
        calls_tool = message.get("role") == "assistant" and message.get("tool_calls")
        content = message.get("content")
        if not calls_tool and not isinstance(content, str | list):
            return f"{place}.content", f"is {_kind(content)}, should be text"
        if not calls_tool and not (content.strip() if isinstance(content, str) else content):
            return f"{place}.content", "is empty"
    if needs_assistant and all(message["role"] != "assistant" for message in messages):
        return field, "has no assistant turn to learn from"
    return None


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
