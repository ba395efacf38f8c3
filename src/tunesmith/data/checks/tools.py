"""Tools and the calls of them: read from the many ways they are written, and checked against each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tunesmith.data.layout import MISSING, kind_of


def parsed(value: Any) -> Any:
    """`value`, parsed when it is JSON in a string; MISSING when that can't be parsed."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return MISSING


def tool_list(tools: Any) -> list[Any] | None:
    """The tools of a row as a list; None where they can't be read as one. No tools are an empty list."""
    if tools in (None, MISSING) or (isinstance(tools, str) and not tools.strip()):
        return []
    found = parsed(tools)
    return found if isinstance(found, list) else [] if found is None else None


def tool_names(tools: Any) -> frozenset[str]:
    """The names that a row's tools declare; empty where it declares none."""
    return frozenset(name for tool in tool_list(tools) or () if (name := _name(tool)))


def check_tools(tools: Any) -> Iterator[tuple[str, str, str]]:
    """Code, path below `tools` and message of what is wrong with a row's tools."""
    found = tool_list(tools)
    if found is None:
        said = "no valid JSON" if parsed(tools) is MISSING else kind_of(parsed(tools))
        yield "D012", "", f"is {said}, should be a list of tools"
        return
    for index, tool in enumerate(found):
        if not _name(tool):
            yield "D012", f"[{index}]", "has no name" if isinstance(tool, dict) else f"is {kind_of(tool)}"


def calls_of(value: Any) -> list[Any] | None:
    """The tool calls of a message, one object or a list, JSON or not; None where they can't be read."""
    if value in (None, MISSING):
        return []
    found = parsed(value)
    if isinstance(found, dict):
        return [found]
    return found if isinstance(found, list) else None


def check_call(call: Any, declared: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Code and message of what is wrong with one tool call."""
    name = _name(call)
    if not name:
        yield "D010", "has no function name"
        return
    inner = call["function"] if isinstance(call.get("function"), dict) else call
    arguments = inner.get("arguments", inner.get("parameters", MISSING))
    if arguments in (None, MISSING):
        yield "D010", f"calls {name[:60]} without arguments"
    elif parsed(arguments) is MISSING:
        yield "D010", f"calls {name[:60]} with arguments that are no valid JSON"
    elif not isinstance(parsed(arguments), dict):
        yield "D010", f"calls {name[:60]} with {kind_of(parsed(arguments))} as arguments, not an object"
    if declared and name not in declared:
        yield "D011", f"calls {name[:60]}; the row has {', '.join(sorted(declared))[:120]}"


def _name(tool: Any) -> str | None:
    if not isinstance(tool, dict):
        return None
    inner = tool.get("function")
    name = inner.get("name") if isinstance(inner, dict) else tool.get("name")
    return name if isinstance(name, str) and name.strip() else None
