"""How far two models' next-token distributions are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Compared:
    """Sums over positions: of divergences in nats, of positions where the likeliest token is the same."""

    divergences: list[float] = field(default_factory=list)
    num_same_top: int = 0
    loss: float = 0.0
    reference_loss: float = 0.0

    def __iadd__(self, other: Compared) -> Compared:
        self.divergences += other.divergences
        self.num_same_top += other.num_same_top
        self.loss += other.loss
        self.reference_loss += other.reference_loss
        return self

    @property
    def num_positions(self) -> int:
        """How many next-token distributions were compared."""
        return len(self.divergences)

    @property
    def mean_divergence(self) -> float:
        """Mean Kullback-Leibler divergence from the reference, in nats; NaN where nothing was compared."""
        return sum(self.divergences) / self.num_positions if self.divergences else math.nan

    @property
    def top1_agreement(self) -> float:
        """The share of positions where both hold the same token for the likeliest."""
        return self.num_same_top / self.num_positions if self.divergences else math.nan

    @property
    def perplexity(self) -> float:
        """exp of the mean loss of the tokens that come."""
        return _exp(self.loss, self.num_positions)

    @property
    def reference_perplexity(self) -> float:
        """The same of the reference."""
        return _exp(self.reference_loss, self.num_positions)

    def as_dict(self) -> dict[str, Any]:
        """For the way between processes."""
        return vars(self)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Log-softmax over the last axis, in fp32."""
    shifted = logits.astype(np.float32) - logits.max(axis=-1, keepdims=True)
    return np.asarray(
        shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)), np.float32
    )


def compared(reference: np.ndarray, logits: np.ndarray, tokens: np.ndarray) -> Compared:
    """Compare logits with reference log-probabilities, both (positions, vocabulary); `tokens` come next."""
    found = log_probabilities(logits)
    known = np.asarray(reference, np.float64)
    # A model that gives no numbers diverges without bound, rather than by NaN, which is below any limit.
    divergences = np.nan_to_num((np.exp(known) * (known - found)).sum(axis=-1), nan=math.inf)
    places = np.arange(len(tokens))
    return Compared(
        divergences=[max(0.0, float(each)) for each in divergences],
        num_same_top=int((known.argmax(axis=-1) == found.argmax(axis=-1)).sum()),
        loss=-float(found[places, tokens].sum()),
        reference_loss=-float(known[places, tokens].sum()),
    )


def _exp(total: float, count: int) -> float:
    return math.exp(min(total / count, 700.0)) if count and not math.isnan(total) else math.nan
