"""CPO and SimPO: preferences without a reference model."""

from __future__ import annotations

from tunesmith.config.run_config import RunConfig
from tunesmith.data.learnable import DataReport
from tunesmith.train.method_trainer import MethodTrainer, base_model_note
from tunesmith.train.pair_rows import reads_pair_ids


class Cpo(MethodTrainer):
    """TRL's experimental CPOTrainer; SimPO is its `loss_type` simpo."""

    headline = (("rewards/accuracies", "accuracy"), ("rewards/margins", "margin"))
    texts_per_row = 2
    whole_logits = True

    def classes(self) -> tuple[type, type]:
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        return CPOConfig, reads_pair_ids(CPOTrainer)

    def notes(self, config: RunConfig, *, has_template: bool, report: DataReport) -> list[str]:
        return [] if has_template else [base_model_note(config)]
