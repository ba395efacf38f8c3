"""A plan in tables and in the keys of its `--json` document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from tunesmith.cli.describe import count, duration_text, quantity
from tunesmith.plan.hardware import HF_JOBS

if TYPE_CHECKING:
    from tunesmith.plan.planner import Plan
    from tunesmith.train.planning import Outlook

# Items of less than this share of the whole say nothing.
_WORTH_SAYING = 0.01


def document(
    best: Outlook, outlooks: Sequence[Outlook], others: Mapping[str, str], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """The keys of `--json`: the plan to follow, and of several machines a line each; `others` can't do it."""
    task = best.task
    found = {
        "num_params": task.base.parameters.total,
        "num_trainable_params": task.num_trainable_params,
        "tuning": task.config.tuning,
        "hardware": best.machine.name,
        "mean_length": round(task.rows.mean_length, 2),
        "mean_length_error": round(task.rows.mean_error, 4),
        "num_devices": best.plan.configuration.num_devices,
        "num_steps": best.plan.workload.num_steps,
        **best.plan.as_dict(),
        "faults": list(best.faults),
        "changes": list(best.changes),
        "notes": list(notes),
    }
    if len(outlooks) > 1:
        found["machines"] = [
            {
                "hardware": each.machine.name,
                "tuning": each.task.config.tuning,
                "provider": each.machine.provider,
                "num_devices": each.plan.configuration.num_devices,
                "faults": list(each.faults),
                "changes": list(each.changes),
                **each.plan.as_dict(),
            }
            for each in outlooks
        ]
        found["other_machines"] = dict(others)
    return found


def facts_table(found: Outlook, notes: Sequence[str] = ()) -> Table:
    """One machine's plan, a line a subject."""
    task, plan = found.task, found.plan
    config, rows = task.config, task.rows
    base, trained = task.base, f"{count(task.num_trainable_params)} trained ({config.tuning})"
    sampled = f" (± {100 * rows.mean_error:.1f} %, by a sample)" if rows.mean_error else ""
    lengths = f"mean {rows.mean_length:.0f} tokens{sampled}, longest {rows.longest:,}"
    facts = {
        "model": f"{base.name}: {count(base.parameters.total)} parameters, {trained}, from {base.source}",
        "data": f"{quantity(rows.num_rows, 'row')}, {lengths}",
        "work": f"{quantity(plan.workload.num_steps, 'step')} of {quantity(config.global_batch_size, 'row')}",
        "hardware": _hardware(found),
        "memory": f"{_memory(plan)}: {_items(plan.memory.items, '{:.2f}')}",
        "time": _time(plan),
        "cost": _cost(plan),
        "timeout": _timeout(plan),
        "choices": "; ".join(plan.choice.reasons),
    }
    table = Table(show_header=False, box=None, padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts.items():
        if text:
            table.add_row(name, escape(text))
    for note in notes:
        table.add_row("note", escape(note), style="yellow")
    return table


def comparison(outlooks: Sequence[Outlook], others: Mapping[str, str]) -> Table:
    """All machines: those that will do by cost, then those that won't, with the reason."""
    table = Table(box=None, padding=(0, 1))
    table.add_column("hardware", style="bold", no_wrap=True)
    for name in ("GiB", "time", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    good = [each for each in outlooks if not each.faults]
    marks = _marks(good)
    if len({each.task.config.tuning for each in outlooks}) > 1:
        for each in good:
            told = [each.task.config.tuning, marks.get(each.machine.name)]
            marks[each.machine.name] = ", ".join(filter(None, told))
    for each in sorted(good, key=_by_cost) + [each for each in outlooks if each.faults]:
        plan, duration, cost = each.plan, each.plan.duration, each.plan.cost_usd
        reason = "; ".join(each.faults) + (f". It would with {each.changes[0]}" if each.changes else "")
        table.add_row(
            escape(each.machine.name),
            f"{plan.memory.beside_context:.1f} of {plan.free_gib:.0f}",
            duration_text(duration.expected) if duration else "",
            f"${cost['expected']:.2f}" if cost else "",
            escape(reason or marks.get(each.machine.name, "")),
            style="dim" if each.faults else None,
        )
    for name, reason in others.items():
        table.add_row(escape(name), "", "", "", escape(reason), style="dim")
    return table


def verdict(outlooks: Sequence[Outlook], best: Outlook) -> Iterable[str]:
    """Why nothing will do, and what would change that."""
    if not best.faults:
        return
    if len(outlooks) > 1:
        yield "none of these machines will do"
    yield f"refused: {'; '.join(best.faults)}"
    for change in best.changes:
        yield f"  it would with: {change}"
    if not best.changes and len(outlooks) == 1:
        yield "  next: tunesmith plan --hardware all  lists the machines that will do"


def job_flags(found: Outlook) -> str:
    """What to ask Hugging Face Jobs for, where the machine is theirs."""
    timeout = found.plan.timeout_s
    if found.machine.provider != HF_JOBS or timeout is None or found.faults:
        return ""
    return f"on Hugging Face Jobs: --flavor {found.machine.name} --timeout {_asked(timeout)}"


def _by_cost(each: Outlook) -> tuple[float, float]:
    cost, duration = each.plan.cost_usd, each.plan.duration
    return cost["expected"] if cost else float("inf"), duration.expected if duration else float("inf")


def _marks(good: Sequence[Outlook]) -> dict[str, str]:
    priced = [each for each in good if each.plan.cost_usd]
    timed = [each for each in good if each.plan.duration]
    marks: dict[str, list[str]] = {}
    if priced:
        marks.setdefault(min(priced, key=_by_cost).machine.name, []).append("cheapest")
    if timed:
        fastest = min(timed, key=lambda each: each.plan.duration.expected if each.plan.duration else 0.0)
        marks.setdefault(fastest.machine.name, []).append("fastest")
    return {name: " and ".join(words) for name, words in marks.items()}


def _hardware(found: Outlook) -> str:
    machine, devices = found.machine, found.plan.configuration.num_devices
    chip = machine.chip.name if machine.chip else "a chip that the table doesn't have"
    price = f", ${machine.price_usd_per_hour:g} an hour" if machine.price_usd_per_hour is not None else ""
    if machine.chip and machine.chip.kind == "cpu":
        return f"{machine.name}: {quantity(machine.vcpus or 1, 'CPU core')}{price}"
    return f"{machine.name}: {devices} x {chip}{price}"


def _memory(plan: Plan) -> str:
    """In all, its context included, which is no part of what is free."""
    memory = plan.memory
    context = memory.items.get("context", 0.0)
    return (
        f"{memory.expected:.1f} GiB ({memory.low:.1f} to {memory.high:.1f}) of {plan.free_gib + context:.1f}"
    )


def _items(items: Any, form: str) -> str:
    total = sum(items.values())
    largest = sorted(items.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {form.format(size)}" for name, size in largest if size >= _WORTH_SAYING * total)


def _time(plan: Plan) -> str:
    if plan.duration is None:
        return "not known: tunesmith plan --probe measures it"
    low, high = duration_text(plan.duration.low), duration_text(plan.duration.high)
    total = plan.duration.expected
    parts = sorted(plan.duration.items.items(), key=lambda item: -item[1])
    told = ", ".join(f"{name} {duration_text(each)}" for name, each in parts if each >= _WORTH_SAYING * total)
    return f"{duration_text(total)} ({low} to {high}): {told}"


def _cost(plan: Plan) -> str:
    cost = plan.cost_usd
    return f"${cost['expected']:.2f} (${cost['low']:.2f} to ${cost['high']:.2f})" if cost else ""


def _timeout(plan: Plan) -> str:
    if plan.timeout_s is None or plan.price_usd_per_hour is None:
        return ""
    safe, every = plan.last_checkpoint_s, plan.checkpoint_every_s
    told = ""
    if safe and every:
        told = f"; a checkpoint every {duration_text(every)}, the last after {duration_text(safe)}"
    return f"ask for {_asked(plan.timeout_s)}{told}"


def _asked(seconds: int) -> str:
    """A time as Hugging Face Jobs reads it."""
    return f"{seconds // 3600}h" if seconds % 3600 == 0 else f"{seconds // 60}m"
