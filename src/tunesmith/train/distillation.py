"""On-policy distillation: the student answers, and learns the teacher's distribution over its answers."""

from __future__ import annotations

from typing import Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.learnable import DataReport
from tunesmith.errors import ConfigError, DataError
from tunesmith.plan.base import read_base
from tunesmith.plan.choice import Choice
from tunesmith.plan.workload import Lengths
from tunesmith.train.method_trainer import MethodTrainer, RowCounts, answered_lengths


class Distillation(MethodTrainer):
    """TRL's DistillationTrainer."""

    whole_logits = True

    def classes(self) -> tuple[type, type]:
        from trl import DistillationConfig, DistillationTrainer

        return DistillationConfig, DistillationTrainer

    def check(self, config: RunConfig) -> None:
        if not config.teacher_model:
            raise ConfigError(
                "distillation needs a model to learn from",
                where="teacher_model",
                fix="name a larger model with the same tokenizer: --teacher-model OWNER/NAME",
            )

    def notes(self, config: RunConfig, *, has_template: bool, report: DataReport) -> list[str]:
        if config.teacher_model != config.model:
            return []
        return ["the teacher is the model itself: there is nothing to learn from it"]

    def num_sampled(self, config: RunConfig) -> int:
        return config.global_batch_size

    def num_steps(self, config: RunConfig, num_rows: int, micro_batch: int) -> int:
        """Steps of the run: TRL leaves out the prompts that don't fill a last step."""
        per_epoch = num_rows // config.global_batch_size
        if not per_epoch:
            raise DataError(
                f"there are {num_rows} prompts, and a step answers {config.global_batch_size}",
                where="global_batch_size",
                fix=f"set global_batch_size to {num_rows} or less",
            )
        return config.max_steps or max(1, int(per_epoch * config.num_train_epochs))

    def row_lengths(self, config: RunConfig, rows: RowCounts) -> Lengths:
        return answered_lengths(config, rows)

    def check_models(self, config: RunConfig, model_config: Any, tokenizer: Any) -> None:
        from tunesmith.data.tokenizer import load_tokenizer
        from tunesmith.train.model import load_model_config

        teacher = str(config.teacher_model)
        sizes = [
            each.get_text_config().vocab_size
            for each in (model_config, load_model_config(config, teacher, None))
        ]
        if sizes[0] != sizes[1] or load_tokenizer(config, teacher).get_vocab() != tokenizer.get_vocab():
            raise ConfigError(
                f"{teacher} has another vocabulary than {config.model}: it can't be compared token by token",
                where="teacher_model",
                fix="take a larger model of the same family, with the same vocab_size and tokenizer",
            )

    def num_teacher_params(self, config: RunConfig) -> int:
        teacher = read_base(str(config.teacher_model), trust_remote_code=config.trust_remote_code)
        return teacher.parameters.total

    def arguments(self, config: RunConfig, choice: Choice, report: DataReport) -> dict[str, Any]:
        return {"max_completion_length": config.max_completion_length}

    def parts(self, config: RunConfig, choice: Choice) -> dict[str, Any]:
        from tunesmith.train.model import load_teacher

        return {"teacher_model": load_teacher(config, choice)}
