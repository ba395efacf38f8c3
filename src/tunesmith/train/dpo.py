"""Direct preference optimization and its relatives, by `trl.loss_type`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.learnable import DataReport
from tunesmith.plan.choice import Choice
from tunesmith.plan.workload import Reference
from tunesmith.train.method_trainer import (
    MethodTrainer,
    base_model_note,
    reference_arguments,
    takes_token_rows,
)
from tunesmith.train.relayout import trained_model
from tunesmith.train.shared_prompts import share_prompts


class Dpo(MethodTrainer):
    """TRL's DPOTrainer on `prompt_ids`, `chosen_ids` and `rejected_ids`."""

    headline = (("rewards/accuracies", "accuracy"), ("rewards/margins", "margin"))
    texts_per_row = 2

    def classes(self) -> tuple[type, type]:
        from trl import DPOConfig, DPOTrainer

        return DPOConfig, takes_token_rows(DPOTrainer)

    def notes(self, config: RunConfig, *, has_template: bool, report: DataReport) -> list[str]:
        return [] if has_template else [base_model_note(config)]

    def arguments(self, config: RunConfig, choice: Choice, report: DataReport) -> dict[str, Any]:
        num_steps = self.num_steps(config, report.num_rows, choice.per_device_train_batch_size)
        reference = self.reference(config, report.num_rows, num_steps)
        return {
            **reference_arguments(config),
            "max_length": config.max_length,
            "precompute_ref_log_probs": reference == "precomputed",
        }

    def reference(self, config: RunConfig, num_rows: int, num_steps: int) -> Reference:
        once = asks_reference_once(config)
        if not config.has_adapter:
            return "precomputed" if once else "model"
        sees_rows_again = num_steps * config.global_batch_size > 1.5 * num_rows
        return "precomputed" if once and sees_rows_again else "adapter"

    def speed_up(self, trainer: Any, choice: Choice, notify: Callable[[str], None]) -> None:
        super().speed_up(trainer, choice, notify)
        if choice.device == "cpu":
            share_prompts(trained_model(trainer), notify)


def asks_reference_once(config: RunConfig) -> bool:
    """Whether the reference can be asked before training, and nothing of it be kept but its answers.

    With full fine-tuning it is a second model, whose memory this saves. Under an adapter it costs no memory,
    and to ask it once is less work where rows are seen more than once.
    """
    return not config.trl.get("sync_ref_model") and config.trl.get("precompute_ref_log_probs") is not False
