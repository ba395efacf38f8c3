"""The planner: of all ways to do a run the fastest that fits, and what that will take."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tunesmith.config.run_config import RunConfig
from tunesmith.errors import ConfigError
from tunesmith.plan.attention import choose_attention
from tunesmith.plan.base import Base
from tunesmith.plan.calibration import constant
from tunesmith.plan.choice import (
    WORTH_CAPTURING,
    Choice,
    allowed_micro_batches,
    choose_precision,
    may_capture,
    not_counted,
)
from tunesmith.plan.duration import Duration, Probe, estimate_duration, estimate_step
from tunesmith.plan.facts import MachineFacts
from tunesmith.plan.hardware import Machine
from tunesmith.plan.memory import Memory, estimate_memory
from tunesmith.plan.room import Room
from tunesmith.plan.workload import Configuration, Workload, usual_batch

# The share of free memory that is left over for what the estimate misses. On a GPU that is measured
# (docs/plan_accuracy.md); elsewhere other programs share the memory.
MARGIN = {"cuda": 0.1, "mps": 0.2, "cpu": 0.2}
# A larger micro-batch is taken unless a smaller one is faster by more than this: estimates don't tell less.
_AS_FAST = 1.03
# A job is given the time of a slow run and a quarter, in whole steps of ten minutes.
_TIMEOUT_SHARE, _TIMEOUT_STEP_S = 1.25, 600


@dataclass(frozen=True)
class Learned:
    """How much longer this machine's steps took than was estimated, in `num_runs` earlier runs; `error` is
    how far those lie apart (a share)."""

    factor: float
    error: float
    num_runs: int


class Kept(NamedTuple):
    """What a run that goes on did in a step: another micro-batch would be another run where the loss compares
    the rows of one."""

    micro_batch: int
    checkpointing: bool


@dataclass(frozen=True)
class Plan:
    """The fastest configuration that fits, with what it takes of each device and in all.

    `fits` says that the margin is left over of `free_gib`; `step` and `duration` are None where nothing is
    known of how fast the machine is; `price_usd_per_hour` is that of the whole machine; `pace` is what real
    steps here took, of a probe or of earlier runs.
    """

    choice: Choice
    configuration: Configuration
    workload: Workload
    memory: Memory
    free_gib: float
    fits: bool
    step: Duration | None
    duration: Duration | None
    price_usd_per_hour: float | None
    pace: Probe | None = None

    @property
    def cost_usd(self) -> dict[str, float] | None:
        """US dollars, low, expected and high; None without a price or a duration."""
        if self.duration is None or self.price_usd_per_hour is None:
            return None
        hourly = self.price_usd_per_hour / 3600
        return {name: round(seconds * hourly, 4) for name, seconds in _three(self.duration).items()}

    @property
    def timeout_s(self) -> int | None:
        """The time to ask a job service for."""
        if self.duration is None:
            return None
        return math.ceil(self.duration.high * _TIMEOUT_SHARE / _TIMEOUT_STEP_S) * _TIMEOUT_STEP_S

    @property
    def last_checkpoint_s(self) -> float | None:
        """Seconds from the start until the last checkpoint, that of the last step, is written; None where
        there is none."""
        if self.duration is None or not self.workload.num_checkpoints:
            return None
        return self.duration.expected - self.duration.items["save"]

    @property
    def checkpoint_every_s(self) -> float | None:
        """Seconds between two checkpoints, which is the most that a kill loses; None where there are none."""
        if self.duration is None or not self.workload.num_checkpoints:
            return None
        items = self.duration.items
        return (items["steps"] + items["evaluation"] + items["checkpoints"]) / self.workload.num_checkpoints

    def as_dict(self) -> dict[str, Any]:
        """The plan as run.json and `--json` have it."""
        memory = self.memory
        return {
            "fits": self.fits,
            "memory_gib": _rounded(_three(memory)) | {"items": _rounded(memory.items)},
            "free_gib": round(self.free_gib, 2),
            "step_s": self.step and _rounded(_three(self.step), 5) | {"items": _rounded(self.step.items, 5)},
            "duration_s": self.duration
            and _rounded(_three(self.duration)) | {"items": _rounded(self.duration.items)},
            "cost_usd": self.cost_usd,
            "price_usd_per_hour": self.price_usd_per_hour,
            "timeout_s": self.timeout_s,
            "last_checkpoint_s": self.last_checkpoint_s and round(self.last_checkpoint_s, 1),
            "checkpoint_every_s": self.checkpoint_every_s and round(self.checkpoint_every_s, 1),
            "choice": self.choice.as_dict(),
            "reasons": list(self.choice.reasons),
        }


def plan_run(
    config: RunConfig,
    facts: MachineFacts,
    machine: Machine,
    base: Base,
    workload: Workload,
    *,
    learned: Learned | None = None,
    probe: Probe | None = None,
    kept: Kept | None = None,
    download_s: float = 0.0,
) -> Plan:
    """The fastest predicted configuration that fits `facts.memory_gib`; where none fits the smallest.

    The global batch is the user's and is never changed. `probe` are steps that were really done; a run that
    goes on has `kept` the way it began.

    Raises:
        ConfigError: fp16 was asked for on a CPU, or the batch can't be shared as pinned, over the devices, or
            into micro-batches as large as the loss needs them.
    """
    free = _free_gib(config, facts)
    precision, why = choose_precision(config, facts)
    attention, how = choose_attention(config, facts, precision, workload.whole_logits)
    candidates = _as_kept(kept, _candidates(config, facts, workload, precision, attention))
    tried = [_laid_out(base, workload, each, free) for each in candidates]
    fitting = [each for each, memory in tried if memory.fits(free, MARGIN[facts.device])]
    best = _fastest(fitting, base, workload, machine) if fitting else _smallest(tried)
    memory = next(memory for each, memory in tried if each is best)
    step = _step(base, workload, best, machine)
    reasons = [why, _fit_sentence(best, memory, free), how]
    if others := not_counted(config):
        reasons.append(f"memory is counted as without {' and '.join(others)}")
    if probe is None and step and learned:
        probe = Probe(step.expected * learned.factor, 0.0, learned.error)
        reasons.append(_learned_sentence(learned))
    duration = None
    if probe or step:
        duration = estimate_duration(
            base.architecture, base.parameters, workload, best, machine, probe=probe,
            stored_bytes=base.stored_bytes, download_s=download_s,
        )  # fmt: skip
    price = machine.price_usd_per_hour
    return Plan(
        Choice(
            facts.device, precision, best.micro_batch, best.accumulation, best.checkpointing, attention,
            may_capture(config, attention, best.checkpointing), round(memory.needed, 2), tuple(reasons),
        ),
        best,
        workload,
        memory,
        free,
        bool(fitting),
        step,
        duration,
        config.budget.usd_per_hour if price is None else price,
        probe,
    )  # fmt: skip


def _free_gib(config: RunConfig, facts: MachineFacts) -> float:
    """What may be taken: the user's limit is of all that a process takes, its context included."""
    limit = config.budget.max_memory_gib
    if limit is None:
        return facts.memory_gib
    return min(facts.memory_gib, max(0.0, limit - constant(f"memory.context_{facts.device}")))


def _as_kept(kept: Kept | None, candidates: list[Configuration]) -> list[Configuration]:
    """Those that are done as the run began, where there still are any."""
    same = [each for each in candidates if (each.micro_batch, each.checkpointing) == kept]
    return same or candidates


def _candidates(
    config: RunConfig, facts: MachineFacts, workload: Workload, precision: Any, attention: Any
) -> list[Configuration]:
    """Every way that may be taken, larger micro-batches first, recomputed activations last."""
    wanted, devices = config.gradient_checkpointing, facts.num_devices
    fused = facts.has_fused_kernels and attention == "varlen"
    long_enough = workload.num_steps >= WORTH_CAPTURING
    return [
        Configuration(
            facts.device,
            precision,
            micro_batch,
            config.global_batch_size // (micro_batch * devices),
            attention,
            checkpointing,
            may_capture(config, attention, checkpointing) and facts.device == "cuda" and long_enough,
            fused and config.trl.get("use_liger_kernel") is not False,
            devices,
            "ddp" if devices > 1 else "none",
        )
        for checkpointing in ((False, True) if wanted is None else (wanted,))
        for micro_batch in allowed_micro_batches(config, devices, workload.smallest_micro_batch)
    ]


def _laid_out(
    base: Base, workload: Workload, configuration: Configuration, free: float
) -> tuple[Configuration, Memory]:
    """A configuration and what it takes, without graphs where training lays none out (train/captured.py)."""
    memory = _memory(base, workload, configuration, free)
    if configuration.captured:
        trained = base.parameters.total if workload.tuning == "full" else workload.num_lora_params
        usual = usual_batch(workload, configuration).num_tokens
        if not Room.of(memory, workload, configuration, free).holds(usual, 4.0 * trained):
            plain = replace(configuration, captured=False)
            return plain, _memory(base, workload, plain, free)
    return configuration, memory


def _memory(base: Base, workload: Workload, configuration: Configuration, device_gib: float) -> Memory:
    return estimate_memory(base.architecture, base.parameters, workload, configuration, device_gib=device_gib)


def _step(base: Base, workload: Workload, configuration: Configuration, machine: Machine) -> Duration | None:
    """Seconds of a step, or None where the table knows nothing of the machine."""
    try:
        return estimate_step(base.architecture, base.parameters, workload, configuration, machine)
    except ConfigError:
        return None


def _fastest(fitting: list[Configuration], base: Base, workload: Workload, machine: Machine) -> Configuration:
    """The first of those that are as fast as any; without recomputing where that is possible."""
    plain = [each for each in fitting if not each.checkpointing] or fitting
    steps = [_step(base, workload, each, machine) for each in plain]
    if any(step is None for step in steps):
        return plain[0]
    seconds = [step.expected for step in steps if step]
    return next(each for each, took in zip(plain, seconds, strict=True) if took <= min(seconds) * _AS_FAST)


def _smallest(tried: list[tuple[Configuration, Memory]]) -> Configuration:
    return min(tried, key=lambda pair: (pair[1].needed, pair[0].micro_batch))[0]


def _fit_sentence(how: Configuration, memory: Memory, free: float) -> str:
    rows = f"{how.micro_batch} {'row' if how.micro_batch == 1 else 'rows'} at a time"
    where = f" on each of {how.num_devices}" if how.num_devices > 1 else ""
    again = ", activations recomputed" if how.checkpointing else ""
    need = max(memory.beside_context, 0.1)
    return f"{rows}{where}: about {need:.1f} GiB of {free:.1f} free{again}"


def _learned_sentence(learned: Learned) -> str:
    runs = "an earlier run here" if learned.num_runs == 1 else f"{learned.num_runs} earlier runs here"
    return f"time by {runs}: {learned.factor:.3g} times the estimate"


def _three(found: Memory | Duration) -> dict[str, float]:
    return {"low": found.low, "expected": found.expected, "high": found.high}


def _rounded(items: Any, digits: int = 3) -> dict[str, float]:
    return {name: round(value, digits) for name, value in items.items()}


def shorter(workload: Workload, max_length: int) -> Workload:
    """The same work with rows cut at `max_length` tokens a text, and what is sampled behind it."""
    lengths, longest = workload.lengths, max_length * workload.texts_per_row + workload.completion_length
    cut = replace(
        lengths,
        mean=min(lengths.mean, longest),
        deviation=min(lengths.deviation, longest / 2),
        longest=min(lengths.longest, longest),
    )
    return replace(workload, lengths=cut)
