"""Telling the format of a data set from its columns and a sample of its rows, or from what the user says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.config.methods import Kind
from tunesmith.data.checks.rows import read_label
from tunesmith.data.column_map import checked_map
from tunesmith.data.findings import Finding
from tunesmith.data.layout import KINDS, MISSING, PLAIN_ROLES, ROLE_ALIASES, Layout, get_path
from tunesmith.data.pairs import is_transcript
from tunesmith.errors import ConfigError
from tunesmith.rewards.completions import REFERENCE_COLUMNS

# Column names that fill a slot, the likeliest first.
NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "chat", "dialogue", "dialog", "turns"),
    "prompt": ("prompt",),
    "completion": ("completion",),
    "user": (
        "instruction", "question", "query", "user", "human", "problem", "request", "input", "context",
        "prompt",
    ),
    "assistant": (
        "output", "answer", "response", "assistant", "reply", "solution", "target", "completion", "answers",
    ),
    "text": ("text", "content", "document", "body"),
    "chosen": (
        "chosen", "better", "preferred", "preferred_output", "accepted", "chosen_response", "response_chosen",
        "winner",
    ),
    "rejected": (
        "rejected", "worse", "dispreferred", "non_preferred_output", "rejected_response", "response_rejected",
        "loser",
    ),
    "label": ("label", "kto_tag", "desirable", "thumbs_up"),
    "reference": REFERENCE_COLUMNS,
    "system": ("system", "system_prompt", "system_message"),
    "tools": ("tools", "functions"),
    "history": ("history",),
    "input": ("input", "context"),
}  # fmt: skip
# Columns of images and sounds, which text alone is not to be trained without.
_MEDIA = frozenset({"images", "image", "videos", "video", "audios", "audio"})
_ROLE_KEYS = ("role", "from", "speaker")
_CONTENT_KEYS = ("content", "value", "text")
_TURN_COLUMNS = ("system", "history", "user", "input", "assistant")


def detect(
    method: str, columns: Sequence[str], sample: Sequence[Any], given: Mapping[str, str] | None = None
) -> Layout | None:
    """The layout of a data set for a method, or None when no column fits.

    `given` maps slots to columns as the user says; it wins over every guess.

    Raises:
        ConfigError: `given` names a slot or a column that doesn't exist.
    """
    kind = KINDS[method]
    rows = [row for row in sample if isinstance(row, dict)]
    named = checked_map(given or {}, columns, rows)
    found = _columns_for(kind, columns, rows, named)
    if found is None:
        return None
    media = next(
        (name for name in columns if name.lower() in _MEDIA and any(row.get(name) for row in rows)), None
    )
    layout = _named(kind, {**found, **({"media": media} if media else {})}, rows)
    unused = [slot for slot in given or {} if slot not in layout.columns]
    if unused:
        raise ConfigError(
            f"the part {unused[0]} has no place in {layout.name} rows of {method}",
            where="map",
            fix=f"parts that are read: {', '.join(layout.columns)}",
        )
    unread = _first_named(NAMES["prompt"], columns)
    if kind == "preference" and unread and unread not in layout.columns.values():
        said = (
            f"column {unread} is not read: the answers are whole conversations, which begin with the question"
        )
        layout = replace(layout, evidence=(*layout.evidence, said))
    if given:
        said = ", ".join(f"{slot} is {column}" for slot, column in given.items())
        return replace(layout, evidence=(f"as given: {said}", *layout.evidence))
    return layout


def _columns_for(
    kind: Kind, columns: Sequence[str], rows: list[dict[str, Any]], given: dict[str, str]
) -> dict[str, str] | None:
    """Slot to column for a kind, or None."""
    left = [name for name in columns if name not in given.values()]

    def find(*slots: str) -> dict[str, str]:
        """The slots among `slots` that a column fills, no column twice."""
        found: dict[str, str] = {}
        for slot in slots:
            if slot in given:
                found[slot] = given[slot]
                continue
            free = [name for name in left if name not in found.values()]
            column = _first_named(NAMES[slot], free) if slot in NAMES else None
            if column:
                found[slot] = column
        return found

    chat = find("messages", "tools", "system")
    if "messages" in chat and "messages" not in given and not _is_chat(chat["messages"], rows):
        del chat["messages"]
    turns = find(*_TURN_COLUMNS)
    if turns.get("user") == turns.get("input"):
        turns.pop("input", None)
    if kind == "conversation":
        return _for_conversation(chat, turns, find, given, rows)
    if kind == "preference":
        return _for_preference(chat, turns, find, columns, rows, given)
    if kind == "unpaired":
        label = find("label")
        answered = _for_conversation(chat, turns, find, given, rows)
        fits = label and answered and "text" not in answered and _are_labels(label["label"], rows)
        return {**answered, **label} if fits and answered else None
    return _for_prompts(chat, turns, find, given, rows)


def _for_conversation(
    chat: dict[str, str], turns: dict[str, str], find: Any, given: dict[str, str], rows: list[Any]
) -> dict[str, str] | None:
    pair = find("prompt", "completion", "tools")
    text = find("text")
    compared = find("chosen", "rejected")
    if len(compared) == 2 and not given and chat.get("messages") != "messages":
        return None  # a pair's prompt is no conversation to learn
    wants_pair, wants_turns = {"prompt", "completion"} & given.keys(), {"user", "assistant"} & given.keys()
    if "messages" in chat and not (wants_pair or wants_turns or "text" in given):
        return chat
    if "prompt" in pair and "completion" in pair and not (wants_turns or "text" in given):
        if "system" in turns and not wants_pair and _are_text(pair, rows):
            # A system message makes a conversation of plain columns.
            return {"system": turns["system"], "user": pair["prompt"], "assistant": pair["completion"]}
        return {**pair, **find("system")}
    if "user" in turns and "assistant" in turns and "text" not in given:
        return turns
    return text or None


def _for_preference(
    chat: dict[str, str],
    turns: dict[str, str],
    find: Any,
    columns: Sequence[str],
    rows: list[Any],
    given: Any,
) -> dict[str, str] | None:
    pair = find("chosen", "rejected")
    if len(pair) < 2:
        ranked = given.get("ranked") or _ranked(columns, rows)
        asked = {slot: name for slot, name in turns.items() if slot != "assistant"}
        return {**asked, "ranked": ranked} if ranked and "user" in asked else None
    if any(isinstance(get_path(row, "input.messages"), list) for row in rows) and "prompt" not in given:
        have_tools = any(get_path(row, "input.tools") not in (None, MISSING, []) for row in rows)
        tools = {"tools": "input.tools"} if have_tools else {}
        return {"prompt": "input.messages", **tools, **pair}
    if _are_whole_conversations(pair["chosen"], rows) and not {"prompt", "user", "messages"} & given.keys():
        return {**find("tools"), **pair}  # a prompt beside them is a copy of how they begin
    prompt = find("prompt")
    taken = set(pair.values())
    if prompt and "user" not in given:
        if "system" in turns and "prompt" not in given and _are_text({**prompt, **pair}, rows):
            return {"system": turns["system"], "user": prompt["prompt"], **find("tools"), **pair}
        return {**prompt, **find("tools", "system"), **pair}
    if "messages" in chat:
        return {**chat, **pair}
    asked = {slot: name for slot, name in turns.items() if slot != "assistant" and name not in taken}
    return {**asked, **pair} if "user" in asked else pair


def _for_prompts(
    chat: dict[str, str], turns: dict[str, str], find: Any, given: dict[str, str], rows: list[Any]
) -> dict[str, str] | None:
    prompt = find("prompt")
    if prompt and "user" not in given:
        asked = {**prompt, **find("system")}
        if "system" in asked and "prompt" not in given and _are_text(prompt, rows):
            asked = {"system": asked["system"], "user": prompt["prompt"]}
    elif "messages" in chat:
        asked = chat
    elif "user" in turns:
        asked = {slot: name for slot, name in turns.items() if slot in ("system", "user", "input")}
    else:
        return None
    reference = find("reference")
    if reference.get("reference") in asked.values():
        reference = {}
    return {**asked, **reference, **find("tools")}


def _first_named(names: Sequence[str], columns: Sequence[str]) -> str | None:
    lower = {column.lower(): column for column in reversed(columns)}
    return next((lower[name] for name in names if name in lower), None)


def _is_chat(column: str, rows: list[dict[str, Any]]) -> bool:
    """True unless the sample shows that the column holds something else in most rows."""
    values = [get_path(row, column) for row in rows]
    strange = [each for each in values if not isinstance(each, list) and each not in (None, MISSING)]
    return column == "messages" or len(strange) * 2 <= len(values)


def _are_text(columns: Mapping[str, str], rows: list[dict[str, Any]]) -> bool:
    """True unless some value of these columns is a list of messages."""
    return not any(isinstance(get_path(row, name), list) for row in rows for name in columns.values())


def _are_whole_conversations(column: str, rows: list[dict[str, Any]]) -> bool:
    """True where most answers are lists that begin with the question."""
    values = [get_path(row, column) for row in rows]
    roles = [_role(value[0]) for value in values if isinstance(value, list) and value]
    return bool(roles) and sum(role not in ("assistant", "") for role in roles) * 2 > len(roles)


def _role(message: Any) -> str:
    said = (
        next((message[key] for key in _ROLE_KEYS if key in message), "") if isinstance(message, dict) else ""
    )
    return ROLE_ALIASES.get(said.lower(), "") if isinstance(said, str) else ""


def _are_labels(column: str, rows: list[dict[str, Any]]) -> bool:
    known = [read_label(get_path(row, column)) is not None for row in rows]
    return not known or sum(known) * 2 > len(known)


def _ranked(columns: Sequence[str], rows: list[dict[str, Any]]) -> str | None:
    """The column whose values are the better and the worse answer, as LLaMA-Factory ranks."""
    for name in ("output", "response", "responses", "answers"):
        values = [row.get(name) for row in rows]
        if name in columns and values and sum(isinstance(each, list) for each in values) * 2 > len(values):
            return name
    return None


def _named(kind: Kind, columns: dict[str, str], rows: list[dict[str, Any]]) -> Layout:
    """The layout with its name, the keys of its messages, and the evidence."""
    layout = Layout("", kind, columns)
    messages = _sample_messages(columns, rows)
    if messages:
        layout = _with_keys(layout, messages)
    texts = [
        get_path(row, columns[slot]) for slot in ("chosen", "rejected") if slot in columns for row in rows
    ]
    transcripts = [isinstance(each, str) and is_transcript(each) for each in texts]
    if transcripts and sum(transcripts) * 2 > len(transcripts):
        name = "hh-rlhf"
    elif columns.get("prompt") == "input.messages":
        name = "openai-preference"
    elif "ranked" in columns:
        name = "ranking"
    elif layout.content_key != "content" or layout.role_key != "role":
        name = "sharegpt"
    elif messages or "messages" in columns:
        name = "messages"
    elif columns.get("user") == "instruction":
        name = "alpaca"
    elif "user" in columns:
        name = "question-answer"
    else:
        name = {"conversation": "prompt-completion", "prompts": "prompts"}.get(kind, kind)
        name = "text" if "text" in columns else name
    said = tuple(_evidence(slot, column, layout) for slot, column in columns.items())
    overrides = " ".join(f"--map {slot}={column}" for slot, column in columns.items() if slot != column)
    return replace(layout, name=name, evidence=said, overrides=overrides)


def _sample_messages(columns: dict[str, str], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for slot in ("messages", "prompt", "completion", "chosen", "rejected"):
        for row in rows if slot in columns else ():
            value = get_path(row, columns[slot])
            found += [
                each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)
            ]
    return found


def _with_keys(layout: Layout, messages: list[dict[str, Any]]) -> Layout:
    role_key = _commonest(_ROLE_KEYS, messages)
    content_key = _commonest(_CONTENT_KEYS, messages)
    said = Counter(each[role_key] for each in messages if isinstance(each.get(role_key), str))
    aliased = sum(
        count for role, count in said.items() if role.lower() in ROLE_ALIASES and role not in PLAIN_ROLES
    )
    # In `role` the standard names are the rule: one `gpt` among them is a mistake, not another format.
    if role_key == "role" and aliased * 2 <= sum(said.values()):
        roles: Mapping[str, str] = PLAIN_ROLES
    else:
        spelled = {each for name in ROLE_ALIASES for each in (name, name.capitalize(), name.upper())}
        roles = {name: ROLE_ALIASES[name.lower()] for name in sorted(spelled)}
    return replace(layout, role_key=role_key, content_key=content_key, roles=roles)


def _commonest(keys: Sequence[str], messages: list[dict[str, Any]]) -> str:
    counts = {key: sum(key in message for message in messages) for key in keys}
    return max(keys, key=lambda key: counts[key])


def _evidence(slot: str, column: str, layout: Layout) -> str:
    parts = {
        "messages": f"a conversation with {layout.role_key} and {layout.content_key}",
        "user": "the user's turn",
        "assistant": "the assistant's turn",
        "input": "added to the user's turn",
        "history": "the turns before",
        "system": "the system message",
        "chosen": "the better answer",
        "rejected": "the worse answer",
        "ranked": "the better and the worse answer",
        "media": "images or sounds, which can't be trained on",
        "reference": "the reference answer",
    }
    return f"column {column} is {parts.get(slot, f'the {slot}')}"


def late_columns(late: Mapping[str, int], layout: Layout) -> Iterator[Finding]:
    """Findings of columns that begin after the format was told, and that would have a part in it."""
    for column, row in sorted(late.items(), key=lambda each: (each[1], each[0])):
        for slot in ("tools", "system", "history", "input"):
            if column.lower() in NAMES[slot] and slot not in layout.columns:
                message = f"begins at row {row:,}, after the format was told: it is not read as the {slot}"
                yield Finding("D019", None, column, message)
                break
