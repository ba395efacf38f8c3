"""A reward model: a number for an answer, learned from pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tunesmith.config.run_config import RunConfig
from tunesmith.plan.choice import Choice
from tunesmith.train.documents import read_scored_documents
from tunesmith.train.method_trainer import MethodTrainer
from tunesmith.train.relayout import trained_model

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

    head_rows = 1

    def model_class(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def model_options(self) -> dict[str, Any]:
        return {"num_labels": 1}

    def speed_up(self, trainer: Any, choice: Choice, notify: Callable[[str], None]) -> None:
        if choice.attention != "padded":
            read_scored_documents(trained_model(trainer), choice.attention, notify)

    def task_type(self) -> str:
        return "SEQ_CLS"
