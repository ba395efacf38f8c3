"""How the rows of a data set are laid out: which column plays which part, and what the roles are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tunesmith.config.methods import METHODS, Kind

KINDS: dict[str, Kind] = {name: method.kind for name, method in METHODS.items()}
# The parts a column can play. `user` and `assistant` make a conversation of single columns; `prompt` and
# `completion` are plain text, or lists of messages, as TRL has them; `ranked` holds the better answer first.
SLOTS = (
    "messages", "tools", "system", "history", "user", "input", "assistant", "prompt", "completion", "text",
    "chosen", "rejected", "ranked", "label", "reference",
)  # fmt: skip
# Beside these, `media` is found, never given: images and sounds, which make a row unfit.
ROLES = ("system", "developer", "user", "assistant", "tool")
ROLE_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "human": "user", "prompter": "user", "customer": "user", "usuario": "user",
        "gpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant",
        "chatgpt": "assistant", "chatbot": "assistant", "bing": "assistant", "bard": "assistant",
        "assistant_gpt": "assistant", "gpt4": "assistant", "gpt-4": "assistant", "gpt-3.5": "assistant",
        "system_prompt": "system",
        "function_call": "assistant", "tool_call": "assistant", "observation": "tool", "function": "tool",
        "function_response": "tool", "tool_response": "tool", "tool_output": "tool", "ipython": "tool",
        **{role: role for role in ROLES},
    }
)  # fmt: skip
# ShareGPT's roles whose words are a tool call in JSON.
CALLING_ROLES = frozenset({"function_call", "tool_call"})
PLAIN_ROLES: Mapping[str, str] = MappingProxyType({role: role for role in ROLES})


@dataclass(frozen=True)
class Layout:
    """A format, found or given: `columns` says which column (a path like `input.messages`) fills a slot.

    `roles` maps the names that the data use to the standard ones; `evidence` says, in sentences, why this is
    the format; `overrides` is what to write to choose otherwise.
    """

    name: str
    kind: Kind
    columns: Mapping[str, str]
    role_key: str = "role"
    content_key: str = "content"
    roles: Mapping[str, str] = field(default_factory=lambda: PLAIN_ROLES)
    evidence: tuple[str, ...] = ()
    overrides: str = ""

    @property
    def root_columns(self) -> list[str]:
        """The columns to read: for a path its first part, and the whole, should a column be named so."""
        names = (name for path in self.columns.values() for name in (path, path.split(".")[0]))
        return list(dict.fromkeys(names))

    def as_dict(self) -> dict[str, Any]:
        """The layout as a shard or a run keeps it."""
        return {
            "name": self.name, "kind": self.kind, "columns": dict(self.columns), "role_key": self.role_key,
            "content_key": self.content_key, "roles": dict(self.roles), "evidence": list(self.evidence),
            "overrides": self.overrides,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Layout:
        """The layout that `as_dict` kept."""
        return cls(**{**kept, "evidence": tuple(kept["evidence"])})


class _Missing:
    """A field that a row doesn't have, as against one that is null."""

    def __repr__(self) -> str:
        return "missing"


MISSING = _Missing()


def get_path(row: Any, path: str) -> Any:
    """The value of a row at a path such as `input.messages`; MISSING where there is none."""
    if isinstance(row, dict) and path in row:
        return row[path]
    for name in path.split("."):
        if not isinstance(row, dict) or name not in row:
            return MISSING
        row = row[name]
    return row


def without_nulls(value: Any) -> Any:
    """`value` without null fields: Arrow gives every struct of a column the same keys."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def kind_of(value: Any) -> str:
    """A value's type as a person says it: null, a number, a list."""
    names: dict[type, str] = {
        type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "text",
        list: "a list", dict: "an object", _Missing: "missing",
    }  # fmt: skip
    return names.get(type(value)) or f"a {type(value).__name__}"
