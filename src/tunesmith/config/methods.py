"""The methods: which TRL trainer runs each, what rows it needs, and the settings it is known to work with.

Some are another one's trainer with other settings (ipo is dpo with another loss); those settings stand here,
each with its source, and a user's own `trl:` table wins over them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

# What a method needs of a row.
Kind = Literal["conversation", "preference", "unpaired", "prompts"]


class Default(NamedTuple):
    """A value and the reason for it."""

    value: Any
    source: str


@dataclass(frozen=True)
class Method:
    """A way to train. `trainer` is the module in `tunesmith.train` that does it; `trl` holds its settings."""

    title: str
    trainer: str
    kind: Kind
    trl: Mapping[str, Default] = field(default_factory=dict)
    fields: Mapping[str, Default] = field(default_factory=dict)


_DAPO = "DAPO, arXiv 2503.14476, section 4.1"
_GSPO = "GSPO, arXiv 2507.18071, section 5.1"
_SIMPO = "SimPO's README, Llama3-Base"
METHODS: dict[str, Method] = {
    "sft": Method("supervised fine-tuning on answers", "sft", "conversation"),
    "cpt": Method(
        "continued pre-training on plain text",
        "sft",
        "conversation",
        fields={"num_train_epochs": Default(1.0, "alignment handbook, gpt2-nl continued pre-training")},
    ),
    "dpo": Method("direct preference optimization on pairs", "dpo", "preference"),
    "ipo": Method(
        "preference optimization that does not overfit to certain pairs",
        "dpo",
        "preference",
        trl={"loss_type": Default("ipo", "IPO, arXiv 2310.12036")},
    ),
    "kto": Method("preference optimization on single answers, good or bad", "kto", "unpaired"),
    "orpo": Method("answers and preferences at once, without a reference model", "orpo", "preference"),
    "cpo": Method("preference optimization without a reference model", "cpo", "preference"),
    "simpo": Method(
        "preference optimization by mean log-probability, without a reference model",
        "cpo",
        "preference",
        trl={
            "loss_type": Default("simpo", "SimPO, arXiv 2405.14734"),
            "cpo_alpha": Default(0.0, "TRL's guide to CPO: SimPO has no likelihood term"),
            "beta": Default(2.0, _SIMPO),
            "simpo_gamma": Default(1.0, f"{_SIMPO}: gamma / beta = 0.5"),
        },
        fields={
            "learning_rate": Default(6e-7, f"{_SIMPO} (adapters: ten times that)"),
        },
    ),
    "reward": Method("a reward model from pairs", "reward", "preference"),
    "grpo": Method("reinforcement learning from rewards, groups of answers", "grpo", "prompts"),
    "dr_grpo": Method(
        "GRPO without its length and difficulty bias",
        "grpo",
        "prompts",
        trl={
            "loss_type": Default("dr_grpo", "Dr. GRPO, arXiv 2503.20783"),
            "scale_rewards": Default("none", "Dr. GRPO, arXiv 2503.20783"),
        },
    ),
    "dapo": Method(
        "GRPO with token-level loss and a wider upper clip",
        "grpo",
        "prompts",
        trl={
            "loss_type": Default("dapo", _DAPO),
            "epsilon_high": Default(0.28, _DAPO),
            "mask_truncated_completions": Default(True, _DAPO),
            "beta": Default(0.0, "DAPO, arXiv 2503.14476, section 2.3: no KL term"),
        },
    ),
    "gspo": Method(
        "GRPO with one importance weight a sequence",
        "grpo",
        "prompts",
        trl={
            "importance_sampling_level": Default("sequence", _GSPO),
            "loss_type": Default("grpo", "TRL's paper index, GSPO"),
            "epsilon": Default(3e-4, _GSPO),
            "epsilon_high": Default(4e-4, _GSPO),
            "beta": Default(0.0, "TRL's paper index: GSPO without a KL term"),
        },
    ),
    "rloo": Method("reinforcement learning from rewards, leave-one-out baseline", "rloo", "prompts"),
    "distillation": Method("a smaller model learns a larger one's distribution", "distillation", "prompts"),
}


def which_method(typed: str) -> str:
    """What to say to a person who typed a method that there isn't."""
    near = difflib.get_close_matches(typed.lower(), METHODS, n=1, cutoff=0.5)
    return (f"did you mean {near[0]}? " if near else "") + f"methods: {', '.join(METHODS)}"


# Fields that only some trainers have a use for.
TRAINERS_OF: dict[str, tuple[str, ...]] = {
    "rewards": ("grpo", "rloo"),
    "num_generations": ("grpo", "rloo"),
    "max_steps_without_signal": ("grpo", "rloo"),
    "max_completion_length": ("grpo", "rloo", "distillation"),
    "teacher_model": ("distillation",),
}
# Arguments of TRL's config class that a trainer's page in docs/methods speaks of; `init` writes them down.
TRL_SETTINGS: dict[str, tuple[str, ...]] = {
    "sft": ("packing", "neftune_noise_alpha"),
    "dpo": ("beta", "loss_type", "loss_weights", "label_smoothing", "ld_alpha"),
    "kto": ("beta", "loss_type", "desirable_weight", "undesirable_weight"),
    "orpo": ("beta",),
    "cpo": ("beta", "loss_type", "cpo_alpha", "simpo_gamma"),
    "reward": ("center_rewards_coefficient",),
    "grpo": (
        "beta", "loss_type", "temperature", "scale_rewards", "importance_sampling_level", "epsilon",
        "epsilon_high", "mask_truncated_completions", "entropy_coef", "log_completions", "use_vllm",
    ),
    "rloo": (
        "beta", "temperature", "normalize_advantages", "reward_clip_range", "log_completions", "use_vllm",
    ),
    "distillation": ("beta", "temperature", "log_completions", "use_vllm"),
}  # fmt: skip
