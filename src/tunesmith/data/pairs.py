"""Preference pairs: the prompt that both answers share, and the answers themselves."""

from __future__ import annotations

import re
from typing import Any

from tunesmith.data.layout import Layout

# hh-rlhf (Anthropic) writes whole conversations as text.
_TURN = re.compile(r"\n\n(Human|Assistant): ?")


def is_transcript(text: str) -> bool:
    """True for a conversation written as text, with `Human:` and `Assistant:` turns."""
    start = text.lstrip()
    return start.startswith("Human:") and len(_TURN.findall(f"\n\n{start}")) >= 2


def split_transcript(text: str) -> list[dict[str, str]]:
    """The turns of an hh-rlhf transcript as messages."""
    parts = _TURN.split("\n\n" + text.lstrip())[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[who], "content": words.strip()}
        for who, words in zip(parts[::2], parts[1::2], strict=True)
    ]


def _as_list(value: Any, layout: Layout) -> list[Any] | None:
    if isinstance(value, dict):
        return [value]
    plain = layout.name == "hh-rlhf"
    messages = split_transcript(value) if isinstance(value, str) and plain else value
    if not isinstance(messages, list):
        return None
    # What follows the last answer is not learned, so it makes no difference.
    key = "role" if plain else layout.role_key
    said = [each.get(key) if isinstance(each, dict) else None for each in messages]
    standard = [name if plain else layout.roles.get(name or "") for name in said]
    end = max((index for index, name in enumerate(standard) if name == "assistant"), default=len(said) - 1)
    return messages[: end + 1]


def same_answer(chosen: Any, rejected: Any, layout: Layout) -> bool:
    """True when the two answers say the same, white space at their ends aside."""
    one, other = _as_list(chosen, layout), _as_list(rejected, layout)
    if one is None or other is None:
        return (
            bool(chosen.strip() == rejected.strip()) if isinstance(chosen, str) else bool(chosen == rejected)
        )
    return [_said(each, layout) for each in one] == [_said(each, layout) for each in other]


def common_prompt(chosen: Any, rejected: Any, layout: Layout) -> list[Any] | None:
    """The messages that both conversations begin with, up to the last answer; None where they differ.

    Empty for plain text and for answers that stand alone, whose prompt has a column of its own.
    """
    one, other = _as_list(chosen, layout), _as_list(rejected, layout)
    has_prompt = any(slot in layout.columns for slot in ("prompt", "user", "messages"))
    if one is None or other is None or (has_prompt and len(one) == len(other) == 1):
        return []
    shared = 0
    while shared < min(len(one), len(other)) - 1 and _said(one[shared], layout) == _said(
        other[shared], layout
    ):
        shared += 1
    # What follows the shared part has to be answers: a question there belongs to one of the two only.
    key = "role" if layout.name == "hh-rlhf" else layout.role_key
    roles = layout.roles if layout.name != "hh-rlhf" else {"user": "user", "assistant": "assistant"}
    first = [
        roles.get(side[shared].get(key) or "") for side in (one, other) if isinstance(side[shared], dict)
    ]
    return one[:shared] if first == ["assistant", "assistant"] and (shared or has_prompt) else None


def _said(message: Any, layout: Layout) -> tuple[Any, Any]:
    if not isinstance(message, dict):
        return None, message
    plain = layout.name == "hh-rlhf"
    content = message.get("content" if plain else layout.content_key)
    who = message.get("role" if plain else layout.role_key)
    words = content.strip() if isinstance(content, str) else repr(content)
    return who, words + repr(message.get("tool_calls") or "")
