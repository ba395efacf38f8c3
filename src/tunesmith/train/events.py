"""What training tells whoever watches it: plain facts, no printing here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


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
    `metrics` are the method's own, such as the reward, by the words for them.
    """

    step: int
    num_steps: int
    loss: float | None
    tokens_per_s: float | None
    eta_s: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated:
    """An evaluation is done; `metrics` as in `Progress`."""

    step: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """An answer that the model gave in training, with its rewards and their weighted sum."""

    step: int
    num_steps: int
    prompt: str
    completion: str
    rewards: Mapping[str, float | None]
    reward: float


Event = Phase | Notice | Progress | Evaluated | Sample
Listener = Callable[[Event], None]
