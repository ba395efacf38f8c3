"""What makes a plan one that must not start: it doesn't fit, or takes more than its budget allows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from tunesmith.config.run_config import RunConfig
from tunesmith.errors import ConfigError, PlanError
from tunesmith.plan.base import Base
from tunesmith.plan.choice import not_counted
from tunesmith.plan.facts import MachineFacts
from tunesmith.plan.hardware import Machine
from tunesmith.plan.parameters import count_lora
from tunesmith.plan.planner import MARGIN, Plan, plan_run, shorter
from tunesmith.plan.workload import Tuning, Workload

# Rows cut below this many tokens are another task.
_SHORTEST = 256


def refuse_overrun(plan: Plan, config: RunConfig, facts: MachineFacts, machine: Machine, base: Base) -> None:
    """Make sure that the run may start.

    Raises:
        PlanError: it can't fit, or is expected to take more than the budget; with what would change that.
    """
    faults = faults_of(plan, config, facts, strictly=False)
    if not faults:
        return
    changes = changes_that_help(plan, config, facts, machine, base)
    raise PlanError(
        "; ".join(faults),
        where="the plan",
        fix="; or ".join(changes)
        or "take another machine: tunesmith plan --hardware all lists those that fit",
    )


def faults_of(plan: Plan, config: RunConfig, facts: MachineFacts, *, strictly: bool) -> list[str]:
    """A sentence for all that stands in the way of a plan; `strictly` holds it to the margin of the estimate
    as well."""
    no_room = does_not_fit(plan, config, facts, strictly=strictly)
    return ([no_room] if no_room else []) + list(over_budget(plan, config))


def does_not_fit(plan: Plan, config: RunConfig, facts: MachineFacts, *, strictly: bool) -> str | None:
    """The sentence of a run that has no room, or None; where memory isn't counted it isn't judged.

    A run is refused when even the low estimate is more than there is; `strictly`, or under a limit of the
    user's, when no margin is left.
    """
    if not_counted(config):
        return None
    free, memory = plan.free_gib, plan.memory
    limited = free < facts.memory_gib
    least = memory.low - memory.graphs - memory.items.get("context", 0.0)
    if plan.fits or (not strictly and not limited and least <= free):
        return None
    of = "are what budget.max_memory_gib leaves" if limited else "are free"
    need = f"about {plan.memory.beside_context:.1f} GiB are needed"
    if plan.memory.beside_context <= free:
        need += f" and {100 * MARGIN[facts.device]:.0f} % left over"
    return f"it does not fit: {need}, and {free:.1f} GiB {of}"


def over_budget(plan: Plan, config: RunConfig) -> Iterator[str]:
    """A sentence for each limit of time and money that is expected to be passed, or can't be judged."""
    budget, duration = config.budget, plan.duration
    if (budget.max_hours or budget.max_cost_usd) and duration is None:
        yield (
            "how fast this machine is isn't known, so its hours can't be held to a budget "
            "(tunesmith plan --probe measures it; train without the budget then)"
        )
        return
    if budget.max_hours and duration and duration.expected > budget.max_hours * 3600:
        yield f"it takes about {duration.expected / 3600:.2g} h, and budget.max_hours is {budget.max_hours:g}"
    if budget.max_cost_usd:
        if plan.cost_usd is None:
            yield (
                "what this machine costs isn't known, so it can't be held to budget.max_cost_usd "
                "(say its price: --set budget.usd_per_hour=2.5)"
            )
        elif (cost := plan.cost_usd["expected"]) > budget.max_cost_usd:
            yield f"it costs about ${cost:.2f}, and budget.max_cost_usd is {budget.max_cost_usd:g}"


def changes_that_help(
    plan: Plan, config: RunConfig, facts: MachineFacts, machine: Machine, base: Base
) -> list[str]:
    """Up to two changes of the run with which it would be within memory and budget, the smallest first."""
    found = []
    download_s = plan.duration.items.get("download", 0.0) if plan.duration else 0.0
    for sentence, changed, workload in _changes(plan, config, facts, base):
        # Steps of another kind take another time than those that were measured.
        is_same = (workload.tuning, workload.lengths) == (plan.workload.tuning, plan.workload.lengths)
        pace = plan.pace if is_same else None
        try:
            again = plan_run(changed, facts, machine, base, workload, probe=pace, download_s=download_s)
        except ConfigError:  # smaller sizes can't be shared out as they were
            continue
        if again.fits and not list(over_budget(again, changed)):
            found.append(sentence)
        if len(found) == 2:
            break
    return found


def _changes(
    plan: Plan, config: RunConfig, facts: MachineFacts, base: Base
) -> Iterator[tuple[str, RunConfig, Workload]]:
    """Runs that ask for less, with the words for each."""
    work = plan.workload
    if config.gradient_checkpointing is False:
        yield "leave gradient_checkpointing out", _with(config, gradient_checkpointing=None), work
    pins = [
        key for key in ("per_device_train_batch_size", "gradient_accumulation_steps") if key in config.trl
    ]
    if pins:
        free = {key: value for key, value in config.trl.items() if key not in pins}
        yield f"leave trl.{' and trl.'.join(pins)} out", _with(config, trl=free), work
    if (steps := _steps_within(plan, config)) and steps < work.num_steps:
        yield f"--max-steps {steps}", _with(config, max_steps=steps), replace(work, num_steps=steps)
    if not plan.fits:
        yield from _smaller_tunings(config, facts, base, work)
        longest = math.ceil((work.lengths.longest - work.completion_length) / work.texts_per_row)
        length = min(config.max_length, longest) // 2
        while length >= _SHORTEST:
            yield f"--max-length {length}", _with(config, max_length=length), shorter(work, length)
            length //= 2
        answer = work.completion_length // 2
        while work.num_sampled and answer >= _SHORTEST // 2:
            changed = _with(config, max_completion_length=answer)
            yield f"--max-completion-length {answer}", changed, _answering(work, answer)
            answer //= 2


def _answering(work: Workload, answer: int) -> Workload:
    """The same prompts with answers of at most so many tokens."""
    less, lengths = work.completion_length - answer, work.lengths
    lengths = replace(lengths, mean=max(1.0, lengths.mean - less), longest=max(1, lengths.longest - less))
    labelled = min(1.0, answer / lengths.mean)
    return replace(work, completion_length=answer, lengths=lengths, labelled_share=labelled)


def _smaller_tunings(
    config: RunConfig, facts: MachineFacts, base: Base, work: Workload
) -> Iterator[tuple[str, RunConfig, Workload]]:
    smaller: dict[str, tuple[Tuning, ...]] = {"full": ("lora", "qlora"), "lora": ("qlora",), "qlora": ()}
    for tuning in smaller[config.tuning]:
        if tuning == "qlora" and facts.device != "cuda":
            continue
        trained = work.num_lora_params or count_lora(base.architecture, config.lora_r, "all-linear")
        reference = "adapter" if work.reference == "model" else work.reference
        less = replace(work, tuning=tuning, num_lora_params=trained, reference=reference)
        yield f"--tuning {tuning}", _with(config, tuning=tuning), less


def _steps_within(plan: Plan, config: RunConfig) -> int | None:
    """Steps of a run that keeps to the budget's time and money, or None where they aren't limited."""
    duration, budget = plan.duration, config.budget
    if duration is None:
        return None
    limits = [budget.max_hours * 3600] if budget.max_hours else []
    if budget.max_cost_usd and plan.price_usd_per_hour:
        limits.append(budget.max_cost_usd / plan.price_usd_per_hour * 3600)
    if not limits:
        return None
    steps = duration.items["steps"] + duration.items.get("evaluation", 0.0)
    left = min(limits) - (duration.expected - steps)
    return max(0, math.floor(0.98 * left / max(steps, 1e-9) * plan.workload.num_steps)) or None


def _with(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update=changes)
