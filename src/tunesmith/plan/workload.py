"""What a run asks of a machine: the lengths of its rows, what is trained how, and in which micro-batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, fmean, pstdev
from typing import Literal

from tunesmith.plan.attention import Attention
from tunesmith.plan.optimizer import ADAMW_BYTES

# Deviation over mean of rows that nobody has counted: 0.82 in the 999 rows of
# ../shared/data/alpaca_en_demo.json (words, 2026-11-25), 0.54 in those of benchmarks/speed.py, which are cut.
ASSUMED_SPREAD = 0.8
# As in train/documents.py, whose rows these are (tests/test_plan_memory.py compares them).
_FEWEST_TOKENS, _BLOCK_TOKENS, _WORTH = 64, 512, 0.9

Tuning = Literal["full", "lora", "qlora"]
Reference = Literal["none", "precomputed", "adapter", "model"]
Sharding = Literal["none", "ddp", "zero2", "fsdp"]


@dataclass(frozen=True)
class Lengths:
    """Tokens of rows as the trainer reads them: cut at max_length, both texts of a pair together, a prompt
    with its answer. `deviation` is the standard deviation in tokens; there are `num_rows` of them."""

    num_rows: int
    mean: float
    deviation: float
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Lengths:
        """Those of these rows.

        Raises:
            ValueError: there are none.
        """
        if not lengths:
            raise ValueError("no rows, no lengths")
        return cls(len(lengths), fmean(lengths), pstdev(lengths), max(lengths))

    @classmethod
    def by_hand(cls, num_rows: int, mean: float, max_length: int) -> Lengths:
        """Of rows of which the mean alone is known.

        Their deviation is taken for 0.8 of the mean, as in Alpaca's rows: most sets of chats have many short
        answers and few long ones. The longest is where a log-normal curve of that deviation has one row of
        so many, at most the `max_length` of a whole row.
        """
        mean = min(mean, max_length)
        spread = cls(num_rows, mean, min(ASSUMED_SPREAD * mean, max_length - mean), max_length)
        longest = _quantile(mean, spread.deviation, 0.5 ** (1 / num_rows))
        return cls(num_rows, mean, spread.deviation, math.ceil(min(longest, max_length)))

    def largest_batch(self, num_rows: int, draws: int, certainty: float = 0.5) -> float:
        """Tokens that the largest of `draws` micro-batches of `num_rows` rows stays below, this `certain`.

        The sum of log-normal lengths is taken for log-normal, with mean and deviation of a sum (Fenton 1960,
        "The sum of log-normal probability distributions in scatter transmission systems"); rows are drawn
        without repetition, so all of them together have no deviation. At most `num_rows` of the longest.
        """
        left = max(0, self.num_rows - num_rows) / max(1, self.num_rows - 1)
        deviation = self.deviation * math.sqrt(num_rows * left)
        most = num_rows * self.longest
        return min(most, _quantile(num_rows * self.mean, deviation, certainty ** (1 / max(1, draws))))

    def longest_of(self, num_rows: int, certainty: float = 0.5) -> float:
        """Tokens that the longest of so many rows stays below, this `certain`: a padded batch's width."""
        if num_rows >= self.num_rows:
            return self.longest
        return min(self.longest, _quantile(self.mean, self.deviation, certainty ** (1 / num_rows)))


def _quantile(mean: float, deviation: float, share: float) -> float:
    """Where a log-normal curve of this mean and deviation has `share` of it below."""
    if deviation <= 0 or mean <= 0:
        return mean
    wide = math.log1p((deviation / mean) ** 2)
    z = NormalDist().inv_cdf(min(max(share, 1e-9), 1 - 1e-9))
    return mean * math.exp(-wide / 2 + z * math.sqrt(wide))


@dataclass(frozen=True)
class Workload:
    """What is to be learned, of what, how long.

    `method` is one of config/methods.py. `lora_on` names the parts of a layer that have adapters;
    `labelled_share` is the share of tokens that carry a label; `texts_per_row` are 2 for pairs.
    `reference` says how a method asks for another model's log-probabilities in a step: not at all, or
    before training; the trained model without its adapter; or a second model. `whole_logits` is for
    losses that keep the logits of every token, `smallest_micro_batch` are the rows that a loss sees
    together. `num_generations` answers of `completion_length` tokens are sampled for a prompt,
    `num_sampled` at a time on a device. The optimizer keeps `optimizer_bytes` of each trained weight.
    `num_evaluations` and `num_checkpoints` are of the whole run. The mean length may be off by the
    share `mean_error`.
    """

    method: str
    tuning: Tuning
    lengths: Lengths
    global_batch_size: int
    num_steps: int
    num_lora_params: int = 0
    lora_on: frozenset[Literal["attention", "mlp"]] = frozenset({"attention", "mlp"})
    labelled_share: float = 1.0
    texts_per_row: int = 1
    reference: Reference = "none"
    whole_logits: bool = False
    smallest_micro_batch: int = 1
    num_generations: int = 1
    completion_length: int = 0
    num_sampled: int = 0
    num_teacher_params: int = 0
    optimizer_bytes: float = ADAMW_BYTES
    num_eval_rows: int = 0
    num_evaluations: int = 0
    num_checkpoints: int = 0
    mean_error: float = 0.0


@dataclass(frozen=True)
class Configuration:
    """How it is done.

    `sharding` "fsdp" shards all that is kept of weights (ZeRO-3, arXiv 1910.02054), "zero2" gradients and
    optimizer, "ddp" nothing. `micro_batch` are rows of one device at a time; `captured` says that passes are
    CUDA graphs, `fused` that layers have Liger's kernels.
    """

    device: Literal["cuda", "mps", "cpu"]
    precision: Literal["bf16", "fp16", "fp32"]
    micro_batch: int
    accumulation: int
    attention: Attention = "varlen"
    checkpointing: bool = False
    captured: bool = False
    fused: bool = False
    num_devices: int = 1
    sharding: Sharding = "none"


@dataclass(frozen=True)
class Batch:
    """A micro-batch as a device computes it: all tokens, padding included, and those of one of its rows."""

    num_tokens: int
    width: int


def largest_batch(workload: Workload, configuration: Configuration, certainty: float = 0.5) -> Batch:
    """The largest micro-batch of the run, as laid out; the run's largest stays below it, this `certain`."""
    draws = workload.num_steps * configuration.accumulation * configuration.num_devices
    rows = configuration.micro_batch
    width = workload.lengths.longest_of(min(rows * draws, 10**9), certainty)
    return laid_out(
        workload.lengths.largest_batch(rows, draws, certainty),
        width / workload.texts_per_row,
        rows * workload.texts_per_row,
        configuration.attention,
    )


def usual_batch(workload: Workload, configuration: Configuration) -> Batch:
    """A micro-batch as most are, as laid out."""
    rows = configuration.micro_batch
    return laid_out(
        rows * workload.lengths.mean,
        workload.lengths.longest_of(rows) / workload.texts_per_row,
        rows * workload.texts_per_row,
        configuration.attention,
    )


def laid_out(num_tokens: float, width: float, num_texts: int, attention: Attention) -> Batch:
    """`num_tokens` of so many texts, the longest of `width` tokens, as train/documents.py lays them out."""
    tokens, wide = math.ceil(num_tokens), math.ceil(width)
    padded = Batch(max(tokens, num_texts * wide), wide)
    if attention == "varlen":
        return Batch(filled_up(tokens), filled_up(tokens))
    if attention == "blocks":
        room = max(wide, min(tokens, _BLOCK_TOKENS))
        rows = math.ceil(tokens / room)
        if rows * room <= _WORTH * padded.num_tokens:
            return Batch(rows * room, room)
    return padded


@cache
def filled_up(num_tokens: int) -> int:
    """The length that a row of so many tokens is filled up to: eight between two powers of two."""
    step = max(_FEWEST_TOKENS, (1 << num_tokens.bit_length()) // 16)
    return -(-max(1, num_tokens) // step) * step


def num_shapes(workload: Workload, configuration: Configuration) -> int:
    """How many lengths of a filled-up row a run meets: of those within two deviations of a micro-batch."""
    rows, lengths = configuration.micro_batch, workload.lengths
    around, wide = rows * lengths.mean, 2 * lengths.deviation * math.sqrt(rows)
    least, most = max(1, int(around - wide)), int(min(around + wide, rows * lengths.longest))
    found, at = 0, filled_up(least)
    while at <= filled_up(most) and found < 64:
        found, at = found + 1, filled_up(at + 1)
    return max(1, found)
