"""A reward model: a number for an answer, learned from pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.config.run_config import RunConfig
from tunesmith.train.method_trainer import MethodTrainer

if TYPE_CHECKING:
    from datasets import Dataset


class Reward(MethodTrainer):
    """TRL's RewardTrainer: a model with one number for its output, on whole conversations."""

    headline = (("accuracy", "accuracy"), ("margin", "margin"))
    texts_per_row = 2

    def classes(self) -> tuple[type, type]:
        from trl import RewardConfig, RewardTrainer

        return RewardConfig, RewardTrainer

    def rows(self, dataset: Dataset, config: RunConfig) -> Dataset:
        return dataset.map(
            lambda row: {
                "chosen_ids": row["prompt_ids"] + row["chosen_ids"],
                "rejected_ids": row["prompt_ids"] + row["rejected_ids"],
            },
            remove_columns=["prompt_ids"],
        )

    def model_class(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def model_options(self) -> dict[str, Any]:
        return {"num_labels": 1}

    def task_type(self) -> str:
        return "SEQ_CLS"
