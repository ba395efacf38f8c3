"""A clean copy of a data set: bad rows dropped, small faults repaired, all converted, and all counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.data.checks.rows import BadRow, Row
from tunesmith.data.checks.text import without_controls
from tunesmith.data.convert import as_json_line, convert
from tunesmith.data.findings import CODES, Finding
from tunesmith.data.layout import Layout
from tunesmith.data.row_source import RowSource
from tunesmith.errors import DataError
from tunesmith.runs.files import replaced_whole

# Beside rows with errors: copies, answers of which nothing is left, and what a model must not learn by heart.
_ERRORS = (code for code, meaning in CODES.items() if meaning.level == "error")
DROPPED = frozenset(code for code in _ERRORS if not code.startswith("D5")) | {"D206", "D301", "D401", "D402"}
# Not about a row of the data that are copied: D303 names rows of the evaluation data.
_ELSEWHERE = frozenset({"D303"})
REPAIRED = frozenset({"D009", "D016"})


@dataclass
class Fixes:
    """What to do about which row, collected from findings as they are made; then what was done."""

    allowed: frozenset[str] = frozenset()
    drop: dict[int, str] = field(default_factory=dict)
    repair: dict[int, set[str]] = field(default_factory=dict)
    num_rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    converted: bool = False

    def collect(self, finding: Finding) -> None:
        """Take note of a finding; it is what a `FindingLog` streams to."""
        accepted = finding.code in self.allowed and finding.code >= "D1"  # what is below can't be converted
        if finding.row is None or finding.code in _ELSEWHERE or accepted or finding.is_of_reward:
            return
        if finding.code in DROPPED:
            self.drop.setdefault(finding.row, finding.code)
        elif finding.code in REPAIRED:
            self.repair.setdefault(finding.row, set()).add(finding.code)

    def as_dict(self) -> dict[str, Any]:
        """What was done, for the `--json` document."""
        return {
            "num_rows": self.num_rows, "dropped": dict(sorted(self.dropped.items())),
            "repaired": dict(sorted(self.repaired.items())), "converted": self.converted,
        }  # fmt: skip


def refuse_output(path: Path, data: str) -> None:
    """Make sure that a clean copy may be written to `path`.

    Raises:
        DataError: it is no .jsonl file, exists already, or has no folder to lie in.
    """
    if path.suffix.lower() != ".jsonl":
        raise DataError(f"--fix writes JSON lines, not {path.name}", where="--fix", fix="name it OUT.jsonl")
    if path.exists():
        raise DataError(
            f"{path} exists already", where="--fix", fix=f"choose another name; {data} stays as it is"
        )
    if not path.absolute().parent.is_dir():
        raise DataError(f"there is no folder {path.parent}", where="--fix", fix="make it first")


def write_clean(path: Path, rows: RowSource, layout: Layout, fixes: Fixes) -> Fixes:
    """Write the rows that stay to `path` in the standard format, and count what was done.

    Raises:
        DataError: no row would stay.
        OSError: the disk is full, or can't be written.
    """
    with replaced_whole(path) as file:
        for number, row in rows.rows():
            if number in fixes.drop or isinstance(row, BadRow):
                fixes.dropped[fixes.drop.get(number, "D001")] += 1
                continue
            clean = convert(row, layout)
            fixes.converted |= clean != row
            for code in sorted(fixes.repair.get(number, ())):
                clean = _REPAIRS[code](clean)
                fixes.repaired[code] += 1
            file.write(as_json_line(clean))
            fixes.num_rows += 1
        if not fixes.num_rows:
            raise DataError(
                "no row would stay: each one has a fault that only you can mend",
                where=rows.source.path,
                fix="mend the data where they are made",
            )
    return fixes


def _without_trailing_turns(row: Row) -> Row:
    key = "messages" if "messages" in row else "completion"
    messages = list(row.get(key) or [])
    while isinstance(row.get(key), list) and messages and messages[-1]["role"] != "assistant":
        messages.pop()
    return {**row, key: messages} if messages else row


def _clean_strings(value: Any) -> Any:
    if isinstance(value, str):
        return without_controls(value)
    if isinstance(value, dict):
        return {key: _clean_strings(inner) for key, inner in value.items()}
    return [_clean_strings(inner) for inner in value] if isinstance(value, list) else value


_REPAIRS: dict[str, Callable[[Row], Row]] = {"D009": _without_trailing_turns, "D016": _clean_strings}
