"""Text of anybody put into Markdown: it stays text, whatever it holds."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

LONGEST = 300
# An underscore inside a word means nothing.
_SPECIAL = re.compile(r"([\\`*\[\]~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def one_line(text: object, longest: int = LONGEST) -> str:
    """The text on one line without characters that are not seen; one that is too long ends in three dots."""
    seen = "".join(" " if unicodedata.category(each)[0] in "CZ" else each for each in str(text))
    seen = " ".join(seen.split())
    return seen if len(seen) <= longest else seen[: longest - 3].rstrip() + "..."


def plain(text: object) -> str:
    """The text as it is read: no mark in it means anything."""
    escaped = _SPECIAL.sub(r"\\\1", one_line(text).translate(_ENTITIES))
    return re.sub(r"(?i)\b(https?|www)(:|\.)", r"\1&#8203;\2", escaped)  # or it becomes a link


def code(text: object) -> str:
    """The text as code, in which HTML means nothing either; nothing stays nothing."""
    line = one_line(text)
    if not line:
        return ""
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    space = " " if "`" in (line[0], line[-1]) else ""
    return f"{fence}{space}{line}{space}{fence}"


def link(text: object, url: str) -> str:
    """A link; the address has to be one of ours."""
    return f"[{plain(text)}]({url})"


def fenced(language: str, lines: Iterable[str]) -> str:
    """A block of code; the lines have to be ours."""
    return "\n".join([f"```{language}", *lines, "```"])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; columns in which no row has anything are left out."""
    kept = [list(row) for row in rows]
    full = [number for number in range(len(head)) if any(row[number] for row in kept)]
    lines = [_row(head, full), "|" + "---|" * len(full), *(_row(row, full) for row in kept)]
    return "\n".join(lines) if kept else ""


def _row(cells: Sequence[str], columns: Sequence[int]) -> str:
    # Before all other marks a table is cut at its bars: one in code ends a cell too.
    return "| " + " | ".join(cells[each].replace("|", r"\|") for each in columns) + " |"
