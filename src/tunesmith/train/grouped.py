"""What GRPO and RLOO share: prompts that are answered in groups, and rewards for the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.learnable import DataReport
from tunesmith.errors import ConfigError, DataError
from tunesmith.plan.choice import Choice
from tunesmith.plan.workload import Lengths, Reference
from tunesmith.train.decode import decode_captured
from tunesmith.train.method_trainer import MethodTrainer, RowCounts, answered_lengths, reference_arguments
from tunesmith.train.relayout import trained_model
from tunesmith.train.shared_prompts import share_prefill, share_prompts

# Updates from one set of answers. While each answer is used for the next update only, the policy is the one
# that gave it: no ratio differs from 1, nothing is ever clipped. GSPO has four (arXiv 2507.18071, section
# 5.1); DAPO's sixteen (arXiv 2503.14476, section 4.1) would ask for four times the answers at once.
_UPDATES_PER_ROLLOUT = {"gspo": 4, "dapo": 4}
_OWN_ROLLOUTS = ("steps_per_generation", "generation_batch_size", "num_iterations")


class GroupedTrainer(MethodTrainer):
    """A trainer that samples `num_generations` answers to each prompt and compares their rewards."""

    headline = (("reward", "reward"), ("frac_reward_zero_std", "dead groups"))
    best_metric = ("eval_reward", True)

    def check(self, config: RunConfig) -> None:
        if not config.rewards:
            raise ConfigError(
                f"{config.method} needs a reward to learn from",
                where="rewards",
                fix="name one, such as --rewards numeric_answer or --rewards my_rewards.py:score",
            )
        group = config.num_generations or 0
        if config.global_batch_size % group:
            near = max(1, round(config.global_batch_size / group)) * group
            raise ConfigError(
                f"global_batch_size {config.global_batch_size} holds no whole number of groups: "
                f"num_generations is {group}",
                where="global_batch_size",
                fix=f"set global_batch_size to {near}, or num_generations to a divisor of it",
            )

    def notes(self, config: RunConfig, *, has_template: bool, report: DataReport) -> list[str]:
        updates = _updates(config)
        if updates == 1:
            return []
        return [
            f"{config.method} samples {updates * config.global_batch_size} answers at a time and takes "
            f"{updates} steps with them: only in the first no ratio is clipped "
            "(trl.steps_per_generation sets another number)"
        ]

    def num_sampled(self, config: RunConfig) -> int:
        return _updates(config) * config.global_batch_size

    def num_steps(self, config: RunConfig, num_rows: int, micro_batch: int) -> int:
        """Steps of the run: TRL leaves out the prompts that don't fill a last rollout."""
        group, answers = config.num_generations or 1, _answers_at_a_time(config, micro_batch)
        num_prompts = answers // group
        rollouts = num_rows // max(1, num_prompts)
        if not rollouts:
            for_steps = f", for {_updates(config)} steps" if _updates(config) > 1 else ""
            raise DataError(
                f"there are {num_rows} prompts, and {num_prompts} are answered at a time{for_steps}",
                where="global_batch_size",
                fix=f"set global_batch_size to {num_rows // _updates(config) * group} or less, "
                "or give more prompts",
            )
        steps = rollouts * answers / config.global_batch_size * config.trl.get("num_iterations", 1)
        return config.max_steps or max(1, int(steps * config.num_train_epochs))

    def row_lengths(self, config: RunConfig, rows: RowCounts) -> Lengths:
        return answered_lengths(config, rows)

    def reference(self, config: RunConfig, num_rows: int, num_steps: int) -> Reference:
        # The KL term asks a reference: under an adapter that is the same model without it.
        if not self.has_kl_term(config):
            return "none"
        return "adapter" if config.has_adapter else "model"

    def has_kl_term(self, config: RunConfig) -> bool:
        """Whether the loss asks how far the model went from where it started."""
        return bool(config.trl.get("beta"))

    def arguments(self, config: RunConfig, choice: Choice, report: DataReport) -> dict[str, Any]:
        group = config.num_generations or 1
        num_groups = max(1, choice.per_device_train_batch_size // group)
        return {
            **reference_arguments(config),
            "num_generations": group,
            "max_completion_length": config.max_completion_length,
            "reward_weights": [reward.weight for reward in config.rewards],
            # Evaluation needs whole groups as well.
            "per_device_eval_batch_size": num_groups * group,
        } | _rollouts(config, choice)

    def speed_up(self, trainer: Any, choice: Choice, notify: Callable[[str], None]) -> None:
        super().speed_up(trainer, choice, notify)
        if choice.device == "cpu":
            model = trained_model(trainer)
            share_prompts(model, notify)
            share_prefill(model, notify)
        elif choice.device == "cuda" and not getattr(trainer, "use_vllm", False):
            decode_captured(trained_model(trainer), notify)


def _updates(config: RunConfig) -> int:
    pinned = any(key in config.trl for key in _OWN_ROLLOUTS)
    return 1 if pinned else _UPDATES_PER_ROLLOUT.get(config.method, 1)


def _answers_at_a_time(config: RunConfig, micro_batch: int) -> int:
    if pinned := config.trl.get("generation_batch_size"):
        return int(pinned)
    if pinned := config.trl.get("steps_per_generation"):
        return int(pinned) * micro_batch
    return _updates(config) * config.global_batch_size


def _rollouts(config: RunConfig, choice: Choice) -> dict[str, Any]:
    updates = _updates(config)
    return {} if updates == 1 else {"steps_per_generation": updates * choice.gradient_accumulation_steps}
