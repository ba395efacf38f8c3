"""GRPO, and its relatives by `trl.loss_type`: Dr. GRPO, DAPO, GSPO."""

from __future__ import annotations

from tunesmith.train.grouped import GroupedTrainer


class Grpo(GroupedTrainer):
    """TRL's GRPOTrainer."""

    def classes(self) -> tuple[type, type]:
        from trl import GRPOConfig, GRPOTrainer

        return GRPOConfig, GRPOTrainer
