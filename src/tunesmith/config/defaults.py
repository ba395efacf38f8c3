"""Defaults that depend on the trainer and on adapters or full fine-tuning, each with its source.

Where nobody published a rate for adapters, it is ten times the full one ("LoRA Without Regret", Thinking
Machines, 2025: so much higher is the best LoRA rate, whatever the rank).
"""

from __future__ import annotations

from typing import Any

from tunesmith.config.methods import METHODS, Default

_TEN_TIMES = "ten times the full rate: LoRA Without Regret, Thinking Machines 2025"
_HANDBOOK_DPO = "alignment handbook, Zephyr DPO"
_ONE_EPOCH = Default(1.0, _HANDBOOK_DPO)


def _rate(full: float, source: str, lora: Default | None = None) -> dict[str, Default]:
    return {"full": Default(full, source), "lora": lora or Default(_tenfold(full), _TEN_TIMES)}


def _tenfold(rate: float) -> float:
    return float(f"{10 * rate:g}")


_LEARNING_RATES: dict[str, dict[str, Default]] = {
    "sft": _rate(
        2e-5, "full: TRL's SFTConfig; alignment handbook, Zephyr SFT",
        Default(2e-4, "LoRA: QLoRA paper, arXiv 2305.14314"),
    ),
    "dpo": _rate(5e-7, _HANDBOOK_DPO, Default(5e-6, "alignment handbook, Zephyr DPO with QLoRA")),
    "kto": _rate(
        5e-7, "TRL's scripts/kto.py", Default(1e-6, "TRL's guide to KTO: at most 1e-6 where beta is 0.1")
    ),
    "orpo": _rate(8e-6, "TRL's example of ORPO", Default(8e-5, "TRL's example of ORPO with LoRA")),
    "cpo": _rate(1e-6, "TRL's CPOConfig"),
    "reward": _rate(
        1e-5, "TRL's example of reward modelling", Default(1e-4, "TRL's example of it with LoRA")
    ),
    "grpo": _rate(1e-6, "DeepSeekMath, arXiv 2402.03300, section 4.2; TRL's GRPOConfig"),
    "rloo": _rate(1e-6, "TRL's RLOOConfig"),
    "distillation": _rate(
        2e-5, "TRL's scripts/distillation.py", Default(2e-4, "TRL's scripts/distillation.py with LoRA")
    ),
}  # fmt: skip
_SCHEDULES: dict[str, tuple[Default, Default]] = {
    name: (Default("cosine", f"as in {_HANDBOOK_DPO}"), Default(0.1, f"as in {_HANDBOOK_DPO}"))
    for name in ("dpo", "kto", "orpo", "cpo", "reward")
} | {
    name: (
        Default("constant_with_warmup", "DAPO, arXiv 2503.14476, section 4.1"),
        Default(0.03, "a short warm-up: Adam's moments are empty at the first step"),
    )
    for name in ("grpo", "rloo", "distillation")
}  # fmt: skip
_SFT_SCHEDULES = {
    "lora": (
        Default("cosine", "alignment handbook, Zephyr SFT"),
        Default(0.03, "alignment handbook, SmolLM3 SFT"),
    ),
    "full": (
        Default("cosine", "alignment handbook, Zephyr SFT"),
        Default(0.1, "full: alignment handbook, Zephyr SFT"),
    ),
}
_GROUPS = {
    "global_batch_size": Default(64, "eight prompts of eight answers"),
    "num_generations": Default(8, "TRL's GRPOConfig"),
    "max_completion_length": Default(512, "TRL's GRPOConfig"),
    "max_steps_without_signal": Default(20, "by then a task that can be learned has shown it"),
    "num_train_epochs": Default(1.0, "TRL's guide to GRPO with LoRA"),
}
_OTHER: dict[str, dict[str, Default]] = {
    "sft": {"num_train_epochs": Default(3.0, "Alpaca, Stanford 2023")},
    "dpo": {"num_train_epochs": _ONE_EPOCH},
    "kto": {"num_train_epochs": _ONE_EPOCH},
    "orpo": {"num_train_epochs": Default(3.0, "alignment handbook, Zephyr-141B ORPO")},
    "cpo": {"num_train_epochs": _ONE_EPOCH},
    "reward": {"num_train_epochs": Default(1.0, "InstructGPT, arXiv 2203.02155, appendix C.2")},
    "grpo": _GROUPS,
    "rloo": _GROUPS | {"num_generations": Default(4, "RLOO, arXiv 2402.14740: 2 and 4")},
    "distillation": {
        "max_completion_length": Default(512, "TRL's DistillationConfig"),
        "num_train_epochs": Default(1.0, "the answers are new in every pass"),
    },
}
# Of logging_steps, whose value `logging_steps` gives once the steps of the run are known.
LOGGING_SOURCE = "TRL's 10, in a short run a tenth of its steps"
_GLOBAL_BATCH_SIZE = Default(16, "QLoRA's scripts; Zephyr and Alpaca use 128")


def field_defaults(method: str, tuning: str) -> dict[str, Default]:
    """The fields of a run that depend on method and tuning, with their values."""
    spec = METHODS[method]
    adapters = "full" if tuning == "full" else "lora"
    schedule, warmup = _SCHEDULES.get(spec.trainer) or _SFT_SCHEDULES[adapters]
    defaults = {
        "global_batch_size": _GLOBAL_BATCH_SIZE,
        "learning_rate": _LEARNING_RATES[spec.trainer][adapters],
        "lr_scheduler_type": schedule,
        "warmup_steps": warmup,
        **_OTHER[spec.trainer],
        **spec.fields,
    }
    own_rate = spec.fields.get("learning_rate")
    if own_rate and adapters == "lora":
        defaults["learning_rate"] = Default(_tenfold(own_rate.value), own_rate.source)
    return defaults


def trl_defaults(method: str) -> dict[str, Default]:
    """The arguments of TRL's config class that make the method what it is."""
    return dict(METHODS[method].trl)


def logging_steps(num_steps: int) -> int:
    """Steps between two logs of a run of `num_steps`: ten, or so many that a short run has ten logs."""
    return max(1, min(10, num_steps // 10))


def described(name: str) -> str | None:
    """A field's defaults in words, `lora 0.0002, full 2e-05 (sft)`; None for one that has only one."""
    said: dict[str, list[str]] = {}
    for method in METHODS:
        lora, full = (field_defaults(method, tuning).get(name) for tuning in ("lora", "full"))
        if lora and full:
            same = lora.value == full.value
            text = _short(lora.value) if same else f"lora {_short(lora.value)}, full {_short(full.value)}"
            said.setdefault(text, []).append(method)
    if len(said) < 2:
        return next(iter(said), None)
    return "; ".join(f"{', '.join(methods)}: {text}" for text, methods in said.items())


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
