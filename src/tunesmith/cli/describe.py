"""A run in words, before it is paid for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from tunesmith.config.layers import TABLES
from tunesmith.config.methods import METHODS
from tunesmith.config.run_config import RunConfig
from tunesmith.runs.figures import count, duration_text, quantity, setting_text, warmup_text

if TYPE_CHECKING:
    from pathlib import Path

    from tunesmith.data.learnable import DataReport
    from tunesmith.plan.planner import Plan
    from tunesmith.train.setup import Setup


def setup_table(setup: Setup, run_path: Path) -> Table:
    """What is about to happen, a line a subject."""
    config, sizes, report, choice = setup.config, setup.sizes, setup.data.report, setup.choice
    length = (
        quantity(config.max_steps, "step") if config.max_steps else quantity(config.num_train_epochs, "epoch")
    )
    rows = {
        "method": f"{config.method}: {METHODS[config.method].title}",
        "model": f"{config.model} ({count(sizes.num_params)} parameters)",
        "teacher": config.teacher_model or "",
        "data": _data(config.kind, report),
        "evaluation": f"{quantity(report.num_eval_rows, 'row')} held out" if report.num_eval_rows else "none",
        "rewards": "; ".join(
            f"{name} (weight {reward.weight:g})"
            for name, reward in zip(setup.rewards, config.rewards, strict=True)
        ),
        "answers": f"sampled in training, at most {quantity(config.max_completion_length, 'token')} each"
        if config.max_completion_length
        else "",
        "tuning": _tuning(config, sizes.num_params, sizes.num_trainable_params),
        "steps": f"{setup.num_steps:,} of {_batch(config)} ({length})",
        "rate": f"{config.learning_rate:g}, {config.lr_scheduler_type}, "
        f"warm-up {warmup_text(config.warmup_steps or 0)}",
        "seed": str(config.seed),
        "machine": setup.machine.device_name,
        "choices": "; ".join(choice.reasons),
        "plan": plan_sentence(setup.plan),
        "run folder": str(run_path),
    }
    table = Table(show_header=False, box=None, padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        if text:
            table.add_row(name, escape(text))
    for name, told in report.rewards.items():
        table.add_row("tried", escape(f"{name}: {told}"))
    for note in setup.notes:
        table.add_row("note", escape(note), style="yellow")
    return table


def plan_sentence(plan: Plan) -> str:
    """Time and money that a run is expected to take, and the risk of having no room for it."""
    told = []
    if plan.duration:
        low, high = duration_text(plan.duration.low), duration_text(plan.duration.high)
        told.append(f"about {duration_text(plan.duration.expected)} ({low} to {high})")
    if cost := plan.cost_usd:
        told.append(f"${cost['expected']:.2f} (${cost['low']:.2f} to ${cost['high']:.2f})")
    if not plan.fits:
        told.append(
            f"it may not fit: about {plan.memory.beside_context:.1f} GiB needed, {plan.free_gib:.1f} GiB free"
        )
    return "; ".join(told)


def _data(kind: str, report: DataReport) -> str:
    sources = ", ".join(f"{name} ({layout})" for name, layout in report.formats.items())
    start = f"{quantity(report.num_rows, 'row')} of {sources}, mean {report.mean_length:g} tokens"
    if kind == "prompts":
        return f"{start} a prompt"
    carry = f"{100 * report.num_loss_tokens / report.num_tokens:.0f} % carry loss"
    if not report.pair_lengths:
        return f"{start}, {carry}"
    sides = ", ".join(f"{side} {size:g}" for side, size in report.pair_lengths.items())
    return f"{start} a pair, {carry}; answers: {sides} tokens"


def _batch(config: RunConfig) -> str:
    if not config.num_generations:
        return quantity(config.global_batch_size, "row")
    prompts = quantity(config.global_batch_size // config.num_generations, "prompt")
    return f"{prompts}, {quantity(config.num_generations, 'answer')} each"


def _tuning(config: RunConfig, num_params: int, num_trainable_params: int) -> str:
    trained = count(num_trainable_params)
    percent = 100 * num_trainable_params / num_params
    kinds = {"full": "every weight", "lora": "LoRA", "qlora": "LoRA on a base in 4 bit"}
    kind = kinds[config.tuning]
    if config.has_adapter:
        kind += f"{' with DoRA' if config.use_dora else ''}, rank {config.lora_r}, on {_targets(config)}"
    return f"{kind}: {trained} trained ({percent:{'.2g' if percent < 10 else '.0f'}} %)"


def provenance_table(config: dict[str, Any], provenance: dict[str, str]) -> Table:
    """Every setting that has a value, with the place it came from; not what is off by default."""
    table = Table(box=None, padding=(0, 1))
    table.add_column("setting", style="bold", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", style="dim", overflow="fold")
    values = {key: value for key, value in config.items() if key not in TABLES}
    values |= {f"{table}.{key}": value for table in TABLES for key, value in config.get(table, {}).items()}
    for name, value in values.items():
        origin = provenance.get(name, "default")
        idle = value is False or (config.get("tuning") == "full" and name.startswith("lora_"))
        if (text := setting_text(value)) and not (idle and origin == "default"):
            table.add_row(name, escape(text), escape(origin))
    return table


def _targets(config: Any) -> str:
    names = config.lora_target_modules
    return (
        "all linear layers"
        if names == "all-linear"
        else names
        if isinstance(names, str)
        else ", ".join(names)
    )
