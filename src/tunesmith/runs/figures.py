"""Figures and settings as people read them, and what a finished run took beside what its plan said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from tunesmith.config.run_config import DatasetSource, RewardSource


class Beside(NamedTuple):
    """What was measured and what had been expected of it, both in words; None where one isn't known."""

    actual: str | None
    planned: str | None


def planned_and_actual(record: Mapping[str, Any]) -> dict[str, Beside]:
    """What a run took, by the content of its run.json, each beside what its plan said."""
    plan, actual = record.get("plan") or {}, record.get("actual") or {}
    memory = plan.get("memory_gib") or {}
    # torch's own count of a GPU's memory has no context and no fragments in it.
    beside = ("context", "fragmentation") if (plan.get("choice") or {}).get("device") == "cuda" else ()
    handed_out = sum(gib for name, gib in memory.get("items", {}).items() if name not in beside)
    return {
        "time": _beside(
            actual.get("duration_s"), (plan.get("duration_s") or {}).get("expected"), duration_text
        ),
        "a step": _beside(
            actual.get("step_s"), (plan.get("step_s") or {}).get("expected"), "{:.3g} s".format
        ),
        "memory": _beside(actual.get("peak_memory_gib"), handed_out or None, "{:.1f} GiB".format),
        "cost": _beside(
            _cost_usd(actual.get("duration_s"), plan.get("price_usd_per_hour")),
            (plan.get("cost_usd") or {}).get("expected"),
            "${:.2f}".format,
        ),
    }


def _beside(actual: float | None, planned: float | None, say: Callable[[float], str]) -> Beside:
    return Beside(None if actual is None else say(actual), None if planned is None else say(planned))


def _cost_usd(duration_s: float | None, usd_per_hour: float | None) -> float | None:
    return None if duration_s is None or usd_per_hour is None else duration_s / 3600 * usd_per_hour


def duration_text(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 3.4 h, 2.1 d."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


def quantity(number: float, noun: str) -> str:
    """A number with its noun: 1 step, 2 steps, 1.2 epochs."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}{'' if number == 1 else 's'}"


def count(number: int) -> str:
    """A parameter count as people write it: 135M, 1.24B."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return str(number)


def warmup_text(steps: float) -> str:
    """Warm-up as people say it: a setting below 1 is a share of the run."""
    return f"{100 * steps:g} % of the steps" if 0 < steps < 1 else quantity(steps, "step")


def setting_text(value: Any) -> str:
    """A value as one writes it in RUN.yaml; nothing for one that is not set."""
    if isinstance(value, list | tuple):
        return ", ".join(map(setting_text, value))
    if isinstance(value, Mapping):
        return _entry(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return "" if value is None else str(value)


def _entry(given: Mapping[str, Any]) -> str:
    """A table; a dataset or reward of which nothing but its name is set is that name."""
    kinds: dict[str, type[BaseModel]] = {"path": DatasetSource, "function": RewardSource}
    model = kinds.get(next(iter(given), ""))
    defaults = {name: field.default for name, field in model.model_fields.items()} if model else {}
    told = {key: value for key, value in given.items() if key not in defaults or value != defaults[key]}
    if model and len(told) == 1:
        return setting_text(next(iter(told.values())))
    pairs = [f"{key}: {text}" for key, value in told.items() if (text := setting_text(value))]
    return f"{{{', '.join(pairs)}}}" if pairs else ""
