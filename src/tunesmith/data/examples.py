"""A few rows for the report page: those that findings name, and some as the trainer sees them."""

from __future__ import annotations

import json
from typing import Any

from tunesmith.data.checks.pieces import strings
from tunesmith.data.checks.rows import BadRow, Row
from tunesmith.data.checks.secrets import find_secrets
from tunesmith.data.preview import PreviewRow, Viewer
from tunesmith.data.report import Report
from tunesmith.data.row_source import open_rows
from tunesmith.data.tokens import Encoder
from tunesmith.data.validate import Request

PER_CODE, AT_MOST, RENDERED = 2, 16, 3
_SHOWN_CHARACTERS = 1500
# Findings that name rows of other data, or text that must not be shown.
_NOT_SHOWN = frozenset({"D303", "D304", "D401", "D402", "D403"})


def examples(request: Request, report: Report) -> list[dict[str, Any]]:
    """Examples as `page` takes them; rows that hold what looks like a secret are left out."""
    if report.layout is None:
        return []
    reasons: dict[int, str] = {}
    taken: dict[str, int] = {}
    for finding in report.log.kept():
        if finding.row is None or finding.code in _NOT_SHOWN or finding.row in reasons:
            continue
        if taken.get(finding.code, 0) < PER_CODE and len(reasons) < AT_MOST:
            taken[finding.code] = taken.get(finding.code, 0) + 1
            reasons[finding.row] = f"{finding.code}: {finding.field or 'the row'} {finding.message}"
    rows = open_rows(request.source)
    shown = [
        {"row": number, "why": reasons[number], "text": _text(row)}
        for number, row in rows.rows_at(sorted(reasons))
        if not _holds_secrets(row)
    ]
    if request.model:
        viewer = Viewer(
            report.layout, Encoder(request.model.tokenizer, report.layout.kind), request.max_length
        )
        for number, row in rows.rows_at(range(RENDERED)):
            if number not in reasons and not _holds_secrets(row):
                shown += [_rendered(view) for view in viewer.view(number, row) if view.pieces]
    return shown


def _holds_secrets(row: Row | BadRow) -> bool:
    return any(find_secrets(text) for _, text in strings(row, ""))


def _text(row: Row | BadRow) -> str:
    text = row if isinstance(row, BadRow) else json.dumps(row, ensure_ascii=False, indent=1, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " ..."


def _rendered(view: PreviewRow) -> dict[str, Any]:
    what = f"{view.name} " if view.name != "row" else ""
    return {
        "row": view.row,
        "why": f"{what}as the trainer sees it: {view.num_tokens:,} tokens, {view.num_learned:,} carry loss",
        "text": "".join(piece.text for piece in view.pieces),
        "segments": [piece._asdict() for piece in view.pieces],
    }
