"""KTO: preference optimization on single answers, each good or bad."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.learnable import DataReport
from tunesmith.plan.choice import Choice
from tunesmith.plan.workload import Lengths, Reference
from tunesmith.train.dpo import asks_reference_once
from tunesmith.train.method_trainer import MethodTrainer, RowCounts, base_model_note, reference_arguments

if TYPE_CHECKING:
    from datasets import Dataset


class Kto(MethodTrainer):
    """TRL's KTOTrainer on `prompt_ids`, `completion_ids` and `label`."""

    headline = (("rewards/margins", "margin"),)
    # Each answer is read a second time, with another row's prompt, to estimate the KL term.
    texts_per_row = 2
    smallest_micro_batch = 2

    def classes(self) -> tuple[type, type]:
        from trl import KTOConfig, KTOTrainer

        class TokenRowsKTOTrainer(KTOTrainer):
            """Rows as the data stage made them, and each batch's answers beside the next row's prompt."""

            def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, name: str) -> Any:
                if not self.calculate_KL:
                    return dataset
                size = args.per_device_train_batch_size
                if len(dataset) % size == 1:  # alone in its batch a row would be compared with itself
                    dataset = dataset.select(range(len(dataset) - 1))
                return dataset.map(_rotate_answers, batched=True, batch_size=size)

        return KTOConfig, TokenRowsKTOTrainer

    def arguments(self, config: RunConfig, choice: Choice, report: DataReport) -> dict[str, Any]:
        return {
            **reference_arguments(config),
            "max_length": config.max_length,
            "precompute_ref_log_probs": asks_reference_once(config) and not config.has_adapter,
        }

    def row_lengths(self, config: RunConfig, rows: RowCounts) -> Lengths:
        # A row stands for two texts: beside its own answer the one of another row.
        found = super().row_lengths(config, rows)
        return replace(found, mean=2 * found.mean, deviation=2 * found.deviation)

    def reference(self, config: RunConfig, num_rows: int, num_steps: int) -> Reference:
        if config.has_adapter:
            return "adapter"
        return "precomputed" if asks_reference_once(config) else "model"

    def notes(self, config: RunConfig, *, has_template: bool, report: DataReport) -> list[str]:
        return [] if has_template else [base_model_note(config)]

    def rows(self, dataset: Dataset, config: RunConfig) -> Dataset:
        # The trainer reads rows in the order they come, for the pairs of the KL term to stay together.
        return dataset.shuffle(seed=config.seed)


def _rotate_answers(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """`KL_completion_ids`: the batch's answers, each one row further (KTO paper, section 4.1)."""
    answers = batch["completion_ids"]
    return {**batch, "KL_completion_ids": [answers[-1], *answers[:-1]]}
