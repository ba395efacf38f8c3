"""ORPO: the chosen answers and the preference for them, learned at once."""

from __future__ import annotations

from tunesmith.train.method_trainer import MethodTrainer
from tunesmith.train.pair_rows import reads_pair_ids


class Orpo(MethodTrainer):
    """TRL's experimental ORPOTrainer; there is no reference model."""

    headline = (("rewards/accuracies", "accuracy"), ("log_odds_ratio", "log odds ratio"))
    texts_per_row = 2
    whole_logits = True

    def classes(self) -> tuple[type, type]:
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        return ORPOConfig, reads_pair_ids(ORPOTrainer)
