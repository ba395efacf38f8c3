"""Lengths, turns and languages of a data set at a glance; statistics of parts can be added up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

# Lengths up to here are counted one by one, longer ones as this one.
LONGEST = 1 << 17
LANGUAGE_SAMPLE = 400
_NO_WORDS = "zxx"  # ISO 639-2: no linguistic content, such as numbers or code
_SHORTEST_FOR_LANGUAGE = 20
_FEWEST_FOR_SHARES = 20
_NUM_BARS = 40


@dataclass
class Lengths:
    """How many rows have each length; adds up exactly, whatever the parts."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    maximum: int = 0
    total: int = 0

    def add(self, lengths: np.ndarray) -> None:
        """Count lengths, an integer array."""
        if len(lengths):
            self.maximum = max(self.maximum, int(lengths.max()))
            self.total += int(lengths.sum())
            self._grow(np.bincount(np.minimum(lengths, LONGEST).astype(np.int64)))

    def merge(self, other: Lengths) -> None:
        """Add another part's counts."""
        self.maximum = max(self.maximum, other.maximum)
        self.total += other.total
        self._grow(other.counts)

    def _grow(self, counts: np.ndarray) -> None:
        small, large = sorted((self.counts, counts), key=len)
        large = large.astype(np.int64, copy=True)
        large[: len(small)] += small
        self.counts = large

    @property
    def num_rows(self) -> int:
        """How many rows were counted."""
        return int(self.counts.sum())

    def percentile(self, percent: float) -> int:
        """The smallest length that covers so many percent of the rows."""
        if not self.num_rows:
            return 0
        wanted = np.ceil(self.num_rows * percent / 100)
        reached = int(np.searchsorted(np.cumsum(self.counts), wanted))
        return min(reached, self.maximum) if reached < LONGEST else self.maximum

    def as_dict(self) -> dict[str, Any]:
        """Mean, percentiles, maximum and a histogram."""
        if not self.num_rows:
            return {}
        points = {f"p{each}": self.percentile(each) for each in (50, 95, 99)}
        mean = round(self.total / self.num_rows, 1)
        return {"mean": mean, **points, "max": self.maximum, "histogram": self.histogram()}

    def histogram(self) -> dict[str, list[int]]:
        """Counts between `edges`, one edge more than counts; the last bar holds the longest."""
        top = max(self.percentile(99.5), 1)
        width = max(1, -(-(top + 1) // _NUM_BARS))
        edges = list(range(0, top + width + 1, width))
        sums = [int(self.counts[low:high].sum()) for low, high in pairwise(edges)]
        sums[-1] += int(self.counts[edges[-1] :].sum())
        edges[-1] = max(edges[-1], self.maximum + 1)
        return {"edges": edges, "counts": sums}


@dataclass
class Statistics:
    """What a data set holds, at a glance."""

    characters: Lengths = field(default_factory=Lengths)
    turns: Lengths = field(default_factory=Lengths)
    # Languages of sampled rows, each with its rank in a seeded order; the lowest ranks are kept.
    sample: list[tuple[int, str]] = field(default_factory=list)

    def add_texts(
        self, first_row: int, prompts: pl.Series, answers: pl.Series, turns: pl.Series | None = None
    ) -> None:
        """Count a batch's characters and turns, and sample its texts."""
        if turns is not None:
            self.turns.add(turns.to_numpy())
        lengths = prompts.str.len_chars() + answers.str.len_chars()
        self.characters.add(lengths.to_numpy())
        order = ranks(np.arange(first_row, first_row + len(prompts), dtype=np.uint64))
        worst = self.sample[-1][0] if len(self.sample) == LANGUAGE_SAMPLE else 1 << 64
        chosen = np.argsort(order, kind="stable")[:LANGUAGE_SAMPLE]
        for index in chosen.tolist():
            if int(order[index]) >= worst:
                break
            text = f"{answers[index]}\n{prompts[index]}"[:300]
            self.sample.append((int(order[index]), language(text)))
        self._trim()

    def merge(self, other: Statistics) -> None:
        """Add another part's statistics."""
        self.characters.merge(other.characters)
        self.turns.merge(other.turns)
        self.sample += other.sample
        self._trim()

    def _trim(self) -> None:
        self.sample = sorted(self.sample)[:LANGUAGE_SAMPLE]

    def as_dict(self) -> dict[str, Any]:
        """The statistics as the report has them."""
        shares = _shares([name for _, name in self.sample if name])
        return {
            "characters": self.characters.as_dict(),
            "turns": {key: value for key, value in self.turns.as_dict().items() if key in ("mean", "max")},
            "languages": [{"language": name, "share": share} for name, share in shares],
            "languages_sample": len(self.sample),
        }


def language(text: str) -> str:
    """The language of a text (ISO 639-1), empty where it is too short to tell."""
    from py3langid.langid import classify

    if len(text) < _SHORTEST_FOR_LANGUAGE:
        return ""
    name = str(classify(text)[0])
    return "no words" if name == _NO_WORDS else name


def _shares(names: list[str]) -> list[tuple[str, float]]:
    """Languages and their shares, the commonest first; below one percent left out, and of few rows all."""
    if len(names) < _FEWEST_FOR_SHARES:
        return []
    shares = [(name, round(count / len(names), 3)) for name, count in Counter(names).most_common()]
    return [(name, share) for name, share in shares if share >= 0.01]


def ranks(rows: np.ndarray) -> np.ndarray:
    """A seeded pseudo-random number a row (splitmix64, Steele et al. 2014), the same in any shard."""
    with np.errstate(over="ignore"):
        mixed = rows + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
