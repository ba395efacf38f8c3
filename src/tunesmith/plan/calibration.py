"""The constants of predictions that can't be derived, each with the measurement it comes from."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Constant:
    """A number, its unit, and what it was measured on. `status` "guessed": nothing was measured yet."""

    value: float
    unit: str
    source: str
    status: Literal["measured", "fitted", "guessed"]
    date: date


@cache
def constants() -> Mapping[str, Constant]:
    """All constants of calibration.toml by "table.name", read once."""
    raw = tomllib.loads(files("tunesmith.plan").joinpath("calibration.toml").read_text(encoding="utf-8"))
    found = {
        f"{table}.{name}": Constant(**each) for table, rows in raw.items() for name, each in rows.items()
    }
    return MappingProxyType(found)


def constant(name: str) -> float:
    """The value of the constant "table.name".

    Raises:
        KeyError: there is none.
    """
    return constants()[name].value
