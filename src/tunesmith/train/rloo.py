"""RLOO: REINFORCE with the mean of the group's other answers for a baseline."""

from __future__ import annotations

from tunesmith.config.run_config import RunConfig
from tunesmith.train.grouped import GroupedTrainer


class Rloo(GroupedTrainer):
    """TRL's RLOOTrainer."""

    def classes(self) -> tuple[type, type]:
        from trl import RLOOConfig, RLOOTrainer

        return RLOOConfig, RLOOTrainer

    def has_kl_term(self, config: RunConfig) -> bool:
        # It is on unless it is set to 0.
        return config.trl.get("beta") != 0
