"""What training tells whoever watches it: plain facts, no printing here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """A stage begins, such as `loading the model`."""

    name: str


@dataclass(frozen=True)
class Notice:
    """Something a careful person would want to know."""

    message: str


@dataclass(frozen=True)
class Progress:
    """A step is done. `loss` and `tokens_per_s` are of the last logged window, None before the first.

    `eta_s` is the time left in seconds, None after the first step, which tells nothing of the others.
    """

    step: int
    num_steps: int
    loss: float | None
    tokens_per_s: float | None
    eta_s: float | None


@dataclass(frozen=True)
class Evaluated:
    """An evaluation is done."""

    step: int
    loss: float


Event = Phase | Notice | Progress | Evaluated
Listener = Callable[[Event], None]
