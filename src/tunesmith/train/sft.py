"""Supervised fine-tuning, and continued pre-training on text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.learnable import DataReport
from tunesmith.plan.choice import Choice
from tunesmith.train.method_trainer import MethodTrainer

if TYPE_CHECKING:
    from datasets import Dataset


class Sft(MethodTrainer):
    """TRL's SFTTrainer on `input_ids` and `labels`."""

    def classes(self) -> tuple[type, type]:
        from trl import SFTConfig, SFTTrainer

        return SFTConfig, SFTTrainer

    def notes(self, config: RunConfig, *, has_template: bool, report: DataReport) -> list[str]:
        chats = set(report.formats.values()) - {"text", "prompt-completion"}
        if config.method == "cpt" and chats:
            return ["cpt is for plain text, and these rows are conversations: sft is the same training"]
        return []

    def arguments(self, config: RunConfig, choice: Choice, report: DataReport) -> dict[str, Any]:
        return {
            "max_length": config.max_length,
            # Rows come out of the data stage as token ids; TRL has nothing left to prepare.
            "dataset_kwargs": {"skip_prepare_dataset": not config.trl.get("packing", False)},
        }

    def rows(self, dataset: Dataset, config: RunConfig) -> Dataset:
        if config.trl.get("packing"):
            return dataset
        # As arrays: of lists TRL makes tensors number by number at every step, while a fast device waits.
        return dataset.with_format("numpy", columns=["input_ids", "labels"])
