"""From a row as it lies in the file to the row that TRL's trainers take; validation and training share it.

Conversations become `messages` (and `tools`), pairs `prompt`, `chosen` and `rejected`, unpaired answers
`prompt`, `completion` and `label`, prompts `prompt` beside all other columns, and `reference_answer` where
rewards would not find the reference under its own name. Plain text stays plain text.
"""

from __future__ import annotations

import json
from typing import Any

from tunesmith.data.checks.rows import Row, read_label
from tunesmith.data.checks.tools import calls_of, parsed, tool_list
from tunesmith.data.layout import CALLING_ROLES, MISSING, Layout, get_path, without_nulls
from tunesmith.data.pairs import common_prompt, split_transcript
from tunesmith.rewards.completions import REFERENCE, REFERENCE_COLUMNS

Message = dict[str, Any]


def convert(row: Row, layout: Layout) -> Row:
    """The canonical row of a row without errors."""
    converter = {
        "conversation": _conversation,
        "preference": _preference,
        "unpaired": _unpaired,
        "prompts": _prompts,
    }[layout.kind]
    return converter(row, layout)


def _conversation(row: Row, layout: Layout) -> Row:
    if "text" in layout.columns:
        return {"text": _value(row, layout, "text")}
    if "prompt" in layout.columns:
        pair = {"prompt": _asked(row, layout), "completion": _side(_value(row, layout, "completion"), layout)}
        return pair | _tools(row, layout)
    if "messages" in layout.columns:
        return {"messages": _asked(row, layout)} | _tools(row, layout)
    answer = {"role": "assistant", "content": _value(row, layout, "assistant")}
    return {"messages": [*_asked(row, layout), answer]}


def _preference(row: Row, layout: Layout) -> Row:
    if "ranked" in layout.columns:
        chosen, rejected = _value(row, layout, "ranked")
    else:
        chosen, rejected = _value(row, layout, "chosen"), _value(row, layout, "rejected")
    prompt = _asked(row, layout)
    if isinstance(prompt, str):
        if isinstance(chosen, str):
            return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        prompt = [{"role": "user", "content": prompt}]
    if not prompt and isinstance(chosen, str) and layout.name != "hh-rlhf":
        return {"chosen": chosen, "rejected": rejected}
    num_shared = 0 if prompt else len(common_prompt(chosen, rejected, layout) or [])
    one, other = (_answer_side(value, layout) for value in (chosen, rejected))
    asked = {"prompt": prompt or one[:num_shared]}
    return asked | {"chosen": one[num_shared:], "rejected": other[num_shared:]} | _tools(row, layout)


def _unpaired(row: Row, layout: Layout) -> Row:
    label = {"label": read_label(_value(row, layout, "label"))} | _tools(row, layout)
    columns = layout.columns
    if "prompt" in columns and "completion" in columns:
        completion = _side(_value(row, layout, "completion"), layout)
        return {"prompt": _asked(row, layout), "completion": completion} | label
    messages = _asked(row, layout)
    slot = "completion" if "completion" in columns else "assistant"
    if slot in columns:
        return {"prompt": messages, "completion": _answer_side(_value(row, layout, slot), layout)} | label
    *asked, answer = _to_last_answer(messages)
    return {"prompt": asked, "completion": [answer]} | label


def _prompts(row: Row, layout: Layout) -> Row:
    prompt = _asked(row, layout)
    # An answer at the end of the conversation is what the model shall find itself.
    while isinstance(prompt, list) and prompt and prompt[-1]["role"] == "assistant":
        prompt = prompt[:-1]
    used = {slot for name, slot in layout.columns.items() if name not in ("reference",)}
    rest = {name: value for name, value in row.items() if name not in used and name != "prompt"}
    return {"prompt": prompt, **rest} | _reference(row, layout) | _tools(row, layout)


def _reference(row: Row, layout: Layout) -> Row:
    """The reference once more, where rewards would look in no column or in another one."""
    path = layout.columns.get("reference")
    if path is None:
        return {}
    likelier = REFERENCE_COLUMNS[: REFERENCE_COLUMNS.index(path)] if path in REFERENCE_COLUMNS else None
    if likelier is not None and not any(name in row for name in likelier):
        return {}
    return {REFERENCE: _value(row, layout, "reference")}


def _asked(row: Row, layout: Layout) -> Any:
    """What comes before the answer: a list of messages, or plain text."""
    columns = layout.columns
    system = _value(row, layout, "system")
    start = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    if "prompt" in columns or "messages" in columns:
        value = _value(row, layout, "prompt" if "prompt" in columns else "messages")
        if isinstance(value, str):
            return value
        messages = _messages(value, layout)
        return messages if messages and messages[0]["role"] == "system" else start + messages
    if "user" not in columns:
        return []
    for question, answer in _value(row, layout, "history") or ():
        start += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    words, more = _value(row, layout, "user"), _value(row, layout, "input")
    content = f"{words}\n{more}" if isinstance(more, str) and more.strip() else words
    return [*start, {"role": "user", "content": content}]


def _to_last_answer(messages: list[Message]) -> list[Message]:
    """`messages` without what follows the assistant's last turn: nothing of it is learned."""
    end = max((index for index, each in enumerate(messages) if each["role"] == "assistant"), default=-1)
    return messages[: end + 1]


def _side(value: Any, layout: Layout) -> Any:
    return value if isinstance(value, str) else _messages(value, layout)


def _answer_side(value: Any, layout: Layout) -> list[Message]:
    if isinstance(value, str) and layout.name == "hh-rlhf":
        return _to_last_answer(split_transcript(value))
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    return _to_last_answer(_messages([value] if isinstance(value, dict) else value, layout))


def _messages(messages: list[Any], layout: Layout) -> list[Message]:
    return [_message(each, layout) for each in messages]


def _message(message: Message, layout: Layout) -> Message:
    """A message with the standard names, its text parts joined, without nulls that only a schema put in."""
    role_key = layout.role_key if layout.role_key in message else "role"
    content_key = layout.content_key if layout.content_key in message else "content"
    said, content = message.get(role_key), message.get(content_key)
    kept = {key: without_nulls(value) for key, value in message.items() if value is not None}
    kept.pop(role_key, None)
    kept.pop(content_key, None)
    if said in CALLING_ROLES:
        calls = [{"type": "function", "function": call} for call in calls_of(content) or ()]
        return kept | {"role": "assistant", "content": None, "tool_calls": calls}
    if isinstance(content, list):
        content = "".join(part if isinstance(part, str) else part["text"] for part in content)
    if kept.get("tool_calls"):
        kept["tool_calls"] = [_plain_call(call) for call in calls_of(kept["tool_calls"]) or ()]
    if kept.get("train") is False:  # Axolotl's way to say OpenAI's `weight: 0`
        kept["weight"] = 0
    # Templates that know tool calls ask `content is none`; a missing key would be another thing to them.
    return kept | {"role": layout.roles.get(str(said), said), "content": content}


def _plain_call(call: Any) -> Any:
    """A tool call with its arguments as an object: templates write JSON themselves."""
    if not isinstance(call, dict):
        return call
    nested = isinstance(call.get("function"), dict)
    inner = call["function"] if nested else call
    if not isinstance(inner.get("arguments"), str):
        return call
    inner = inner | {"arguments": parsed(inner["arguments"])}
    return call | {"function": inner} if nested else inner


def _tools(row: Row, layout: Layout) -> Row:
    if "tools" not in layout.columns:
        return {}
    tools = tool_list(_value(row, layout, "tools"))
    return {"tools": without_nulls(tools)} if tools else {}


def _value(row: Row, layout: Layout, slot: str) -> Any:
    if slot not in layout.columns:
        return None
    value = get_path(row, layout.columns[slot])
    return None if value is MISSING else value


def as_json_line(row: Row) -> bytes:
    """A row as a line of a JSONL file; what JSON has no word for (dates, bytes) becomes text."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half a character: JSON can escape it
        return json.dumps(row, default=str).encode() + b"\n"
