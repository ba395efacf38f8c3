"""Defaults that depend on the method and on LoRA or full fine-tuning, each with its source.

Sources: QLoRA (arXiv 2305.14314): adapters on all linear layers, 2e-4, 3 % warm-up. "LoRA Without Regret"
(Thinking Machines, 2025): the best LoRA rate is about ten times the full fine-tuning rate, whatever the rank.
Alignment handbook's Zephyr SFT recipe and TRL's SFTConfig: 2e-5, cosine, 10 % warm-up for full fine-tuning.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Default(NamedTuple):
    """A value and the reason for it."""

    value: Any
    source: str


TUNING_DEFAULTS: dict[tuple[str, str], dict[str, Default]] = {
    ("sft", "lora"): {
        "learning_rate": Default(2e-4, "LoRA: QLoRA paper, arXiv 2305.14314"),
        "lr_scheduler_type": Default("cosine", "alignment handbook, Zephyr SFT"),
        "warmup_steps": Default(0.03, "LoRA: QLoRA paper, arXiv 2305.14314"),
    },
    ("sft", "full"): {
        "learning_rate": Default(2e-5, "full: TRL's SFTConfig; alignment handbook, Zephyr SFT"),
        "lr_scheduler_type": Default("cosine", "alignment handbook, Zephyr SFT"),
        "warmup_steps": Default(0.1, "full: alignment handbook, Zephyr SFT"),
    },
}
