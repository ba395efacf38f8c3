"""A stranger's chat template is tried in a process of its own before it is rendered here.

A template is a program. jinja2's sandbox keeps it from files and from Python's inside; it doesn't keep it
from running for ever or from filling the memory. So it is tried on a few conversations, and on the first
rows, where the kernel ends it (`template_child`). What passes may still loop on a row that wasn't tried:
`render_chat` ends that, too.
"""

from __future__ import annotations

import json
import marshal
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.rewards.sandbox import Limits, walls_for

TRIAL_S = 2.0
# Computing time of one conversation: the longest of 200,000 tokens take a fraction of a second.
ROW_S = 5.0
_MEMORY_GIB = 0.5
# Python and jinja2 start in 0.1 s; a machine that is busy, or reads them over a network, takes longer.
_START_S = 30.0
_MOST_CHARACTERS = 1 << 20
_MOST_RENDERED = 64 << 20
_SAMPLE_BYTES = 1 << 20
_CHILD = Path(__file__).with_name("template_child.py")

Message = Mapping[str, Any]
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A city", "enum": ["Oslo", "Lima"]},
                "days": {"type": "array", "items": {"type": "integer"}},
                "where": {
                    "type": "object",
                    "properties": {"north": {"type": "number"}},
                    "required": ["north"],
                },
            },
            "required": ["place"],
        },
    },
}
_CALL = {
    "id": "a1b2c3d4e",
    "type": "function",
    "function": {"name": "weather", "arguments": {"place": "Oslo"}},
}
_USER = {"role": "user", "content": "What is 2 + 2?"}
_ASSISTANT = {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."}
_SYSTEM = {"role": "system", "content": "Be brief."}
_PROBES: tuple[tuple[list[dict[str, Any]], list[Any] | None], ...] = (
    ([_USER], None),
    ([_USER, _ASSISTANT], None),
    ([_SYSTEM, _USER, _ASSISTANT], None),
    ([_SYSTEM] + [_USER, _ASSISTANT] * 12, None),
    ([{"role": "user", "content": ""}, {"role": "assistant", "content": ""}], None),
    ([_ASSISTANT, _USER], None),
    ([{"role": "user", "content": [{"type": "text", "text": "Hello"}]}, _ASSISTANT], None),
    ([{"role": "user", "content": "word " * 4000}, _ASSISTANT, _USER], None),
    ([_SYSTEM, _USER], [_TOOL, _TOOL]),
    (
        [
            _USER,
            {"role": "assistant", "content": "", "tool_calls": [_CALL]},
            {"role": "tool", "name": "weather", "tool_call_id": "a1b2c3d4e", "content": "4 degrees"},
            _ASSISTANT,
        ],
        [_TOOL],
    ),
)  # fmt: skip


def try_templates(tokenizer: Any, name: str) -> None:
    """Make sure that the chat templates of `tokenizer`, which are `name`'s, can be rendered without harm.

    Raises:
        ModelError: one is refused, with the reason.
    """
    for template in _templates(tokenizer.chat_template, name):
        reason = _reason(template, _conversations(_PROBES), _variables(tokenizer))
        if reason:
            raise _refused(name, reason)


def try_rows(tokenizer: Any, conversations: Sequence[tuple[list[Any], Any]]) -> None:
    """Try the chat template on rows of the data: (messages, tools) each, as many as make up a MiB.

    Raises:
        ModelError: it is refused, with the reason.
    """
    kept: list[tuple[list[Any], Any]] = []
    room = _SAMPLE_BYTES
    for messages, tools in conversations:
        plain = _plain(messages), _plain(tools)
        room -= len(marshal.dumps(plain))
        if room < 0:
            break
        kept.append(plain)
    name = str(tokenizer.name_or_path or "this tokenizer")
    for template in _templates(tokenizer.chat_template, name) if kept else ():
        reason = _reason(template, _conversations(kept), _variables(tokenizer))
        if reason:
            raise _refused(name, reason)


def render_chat(tokenizer: Any, messages: list[Any], tools: Any, *, add_generation_prompt: bool) -> str:
    """The conversation as the chat template renders it.

    Raises:
        ModelError: it takes too long, too much memory, or writes without measure.
        Exception: whatever the template, a program, raises.
    """
    name = str(getattr(tokenizer, "name_or_path", "") or "this tokenizer")
    try:
        with _ended_after(ROW_S):
            text: str = tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
            )
    except _TookTooLong:
        raise _refused(name, f"it takes longer than {ROW_S:g} s for a row") from None
    except MemoryError:
        raise _refused(name, "it takes more memory for a row than there is") from None
    if len(text) > _MOST_RENDERED and len(text) > 8 * len(str(messages)):
        raise _refused(name, f"it writes {len(text) >> 20:,} MiB for a row that has far less")
    return text


class _TookTooLong(BaseException):
    """Not an Exception: what a template calls may swallow those."""


@contextmanager
def _ended_after(limit_s: float) -> Iterator[None]:
    """Raise _TookTooLong once this thread has computed for so long; where signals can't tell, go on.

    The clock counts computing time, so that a machine that is busy or was asleep ends nothing.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    began = time.thread_time()

    def ring(_number: int, _frame: Any) -> None:
        if time.thread_time() - began >= limit_s:
            raise _TookTooLong

    before = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, limit_s, 0.25)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, before)


def _templates(given: Any, name: str) -> list[str]:
    """The texts of a tokenizer's template or templates.

    Raises:
        ModelError: one is no text, or its name would be a path when it is saved.
    """
    named = given if isinstance(given, dict) else {"default": given} if given else {}
    for key, template in named.items():
        if not isinstance(key, str) or not key or set(key) & set("/\\\0") or key.startswith("."):
            raise _refused(name, f"the name of one of its templates is a path, {key!r}")
        if not isinstance(template, str):
            raise _refused(name, f"it is no text but {type(template).__name__}")
        if len(template) > _MOST_CHARACTERS:
            raise _refused(name, f"it has {len(template):,} characters; real ones have thousands")
    return list(named.values())


def _reason(template: str, conversations: list[dict[str, Any]], variables: dict[str, str]) -> str | None:
    return _tried(template, marshal.dumps(conversations), marshal.dumps(variables))


@lru_cache(maxsize=256)
def _tried(template: str, conversations: bytes, variables: bytes) -> str | None:
    """Why the template is refused, from a child that may be ended; None where it passed."""
    asked = {
        "template": template,
        "conversations": marshal.loads(conversations),
        "variables": marshal.loads(variables),
        "paths": [*_folders("jinja2", "markupsafe"), str(Path(__file__).parents[2])],
        "walls": walls_for(Limits(time_s=TRIAL_S, memory_gib=_MEMORY_GIB)),
        "time_s": TRIAL_S,
        "parent": os.getpid(),
    }
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_CHILD)]
    try:
        done = subprocess.run(
            command, input=marshal.dumps(asked), capture_output=True, timeout=_START_S, env={}
        )
    except subprocess.TimeoutExpired:
        return f"it couldn't be tried within {_START_S:g} s"
    if hasattr(signal, "SIGALRM") and -done.returncode in (signal.SIGALRM, signal.SIGXCPU):
        return f"it takes longer than {TRIAL_S:g} s for a few short conversations"
    try:
        said = json.loads(done.stdout)["reason"]
    except (ValueError, KeyError, TypeError):
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return f"the process that tried it ended with {done.returncode}: {last[:200]}"
    return str(said)[:300] if said else None


def _folders(*packages: str) -> list[str]:
    found = [find_spec(name) for name in packages]
    return sorted({str(Path(spec.origin).parents[1]) for spec in found if spec and spec.origin})


def _conversations(given: Sequence[tuple[list[Any], Any]]) -> list[dict[str, Any]]:
    return [
        {"messages": messages, "tools": tools, "add_generation_prompt": prompted}
        for messages, tools in given
        for prompted in (False, True)
    ]


def _variables(tokenizer: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in tokenizer.special_tokens_map.items() if value is not None}


def _plain(value: Any) -> Any:
    """As transformers gives data to a template: JSON's types, and a word for the type of anything else."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return f"<{type(value).__name__}>"


def _refused(name: str, reason: str) -> ModelError:
    return ModelError(
        f"the chat template of {name} is refused: {reason}",
        where=name,
        fix="give another with --chat-template: chatml, zephyr or a .jinja file that you have read",
    )
