"""Which column plays which part, as the user says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tunesmith.data.layout import MISSING, SLOTS, get_path
from tunesmith.errors import ConfigError


def parse_map(assignments: Iterable[str]) -> dict[str, str]:
    """`--map slot=column` as a table.

    Raises:
        ConfigError: an assignment is no `slot=column`, or names a slot that doesn't exist.
    """
    table: dict[str, str] = {}
    for part in (part for each in assignments for part in each.split(",")):
        slot, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or not slot or not column:
            raise ConfigError(
                f"--map {part!r} should be slot=column", where="--map", fix="write --map prompt=question"
            )
        if slot not in SLOTS:
            raise ConfigError(f"there is no slot {slot!r}", where="--map", fix=f"slots: {', '.join(SLOTS)}")
        table[slot] = column
    return table


def checked_map(
    given: Mapping[str, str], columns: Sequence[str], rows: list[dict[str, Any]]
) -> dict[str, str]:
    """`given` as it is.

    Raises:
        ConfigError: a slot or a column doesn't exist.
    """
    for slot, column in given.items():
        if slot not in SLOTS:
            raise ConfigError(f"there is no slot {slot!r}", where="map", fix=f"slots: {', '.join(SLOTS)}")
        inside = any(get_path(row, column) is not MISSING for row in rows)
        if column not in columns and not inside:
            raise ConfigError(
                f"there is no column {column!r} to map to {slot}",
                where="map",
                fix=f"columns: {', '.join(columns)}",
            )
    return dict(given)
