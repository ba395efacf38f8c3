"""What one method adds to the training that all share: its TRL classes, its arguments, its parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.learnable import DataReport
from tunesmith.plan.choice import Choice
from tunesmith.plan.workload import Lengths, Reference
from tunesmith.train.documents import read_documents
from tunesmith.train.loss_head import labelled_positions_only
from tunesmith.train.relayout import read_models

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class RowCounts:
    """Rows to train on, their tokens as the data stage counts them, and the share that is learned.

    `mean_error` is how far the mean may be off, a share, where it is that of a sample (95 % of samples).
    """

    num_rows: int
    mean_length: float
    length_deviation: float
    longest: int
    labelled_share: float
    num_eval_rows: int
    mean_error: float = 0.0

    @classmethod
    def of(cls, report: DataReport) -> RowCounts:
        """Those that the data stage found."""
        return cls(
            report.num_rows,
            report.mean_length,
            report.length_deviation,
            report.longest,
            report.num_loss_tokens / report.num_tokens if report.num_tokens else 1.0,
            report.num_eval_rows,
        )


class MethodTrainer:
    """A method; its subclasses, one a file, override what differs. Nothing here holds state."""

    # The metrics that tell a person how it goes, with the words for them; the loss stands beside them.
    headline: tuple[tuple[str, str], ...] = ()
    # The metric that tells the best checkpoint, and whether more of it is better.
    best_metric: tuple[str, bool] = ("eval_loss", False)
    # Texts that the model reads of a row: two of a pair.
    texts_per_row = 1
    # Whether the logits of every token are in memory at once.
    whole_logits = False
    # Rows that the loss has to see together.
    smallest_micro_batch = 1
    # Rows of a new head in place of the base's, which is trained whole; None where the base's stays.
    head_rows: int | None = None

    def classes(self) -> tuple[type, type]:
        """TRL's config class and its trainer, which takes the rows as the data stage made them."""
        raise NotImplementedError

    def check(self, config: RunConfig) -> None:
        """Make sure that the configuration makes sense, before anything is read.

        Raises:
            ConfigError: it doesn't.
        """

    def notes(self, config: RunConfig, *, has_template: bool, report: DataReport) -> list[str]:
        """What a careful person would want to know of model and data; `has_template` is the model's own."""
        return []

    def arguments(self, config: RunConfig, choice: Choice, report: DataReport) -> dict[str, Any]:
        """Arguments of TRL's config class that this method has and not every one; the user's `trl:` wins."""
        return {"max_length": config.max_length}

    def rows(self, dataset: Dataset, config: RunConfig) -> Dataset:
        """The rows as the trainer reads them."""
        return dataset

    def num_steps(self, config: RunConfig, num_rows: int, micro_batch: int) -> int:
        """Optimizer steps of the whole run; an epoch's last, smaller batch is a step, as in transformers."""
        if config.max_steps:
            return config.max_steps
        per_epoch = math.ceil(num_rows / config.global_batch_size)
        return math.ceil(per_epoch * config.num_train_epochs)

    def row_lengths(self, config: RunConfig, rows: RowCounts) -> Lengths:
        """Tokens of a row as the trainer reads it."""
        longest = self.texts_per_row * min(rows.longest, config.max_length)
        return Lengths(rows.num_rows, rows.mean_length, rows.length_deviation, longest)

    def check_models(self, config: RunConfig, model_config: Any, tokenizer: Any) -> None:
        """Make sure that models beside the trained one fit it; no weight is loaded.

        Raises:
            ConfigError: one doesn't.
            ModelError, DownloadError: it can't be had.
        """

    def reference(self, config: RunConfig, num_rows: int, num_steps: int) -> Reference:
        """How the method comes to another model's log-probabilities."""
        return "none"

    def num_teacher_params(self, config: RunConfig) -> int:
        """Parameters of the model to learn from."""
        return 0

    def num_sampled(self, config: RunConfig) -> int:
        """Answers that are generated at a time."""
        return 0

    def model_class(self) -> Any:
        """transformers' class that loads the model."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments for loading the model, beside those of every method."""
        return {}

    def task_type(self) -> str:
        """peft's name for what the adapter is for."""
        return "CAUSAL_LM"

    def parts(self, config: RunConfig, choice: Choice) -> dict[str, Any]:
        """Keyword arguments of the trainer beside those of every method."""
        return {}

    def speed_up(self, trainer: Any, choice: Choice, notify: Callable[[str], None]) -> None:
        """Make the trainer do the same work in less time; `notify` hears where that can't be."""
        if choice.attention != "padded":
            for model in read_models(trainer):
                read_documents(model, choice.attention, notify)

    def while_training(self, choice: Choice) -> AbstractContextManager[None]:
        """What holds while the trainer works."""
        return labelled_positions_only(choice.device)


def answered_lengths(config: RunConfig, rows: RowCounts) -> Lengths:
    """Tokens of prompts with answers, each as long as one may be."""
    answer = config.max_completion_length or 0
    longest, mean = min(rows.longest, config.max_length), min(rows.mean_length, config.max_length)
    return Lengths(rows.num_rows, mean + answer, rows.length_deviation, longest + answer)


def reference_arguments(config: RunConfig) -> dict[str, Any]:
    """How TRL is to load a reference model, where it keeps one: as the trained one was loaded."""
    if config.has_adapter:
        return {}
    revision = {"revision": config.model_revision} if config.model_revision else {}
    return {
        "trust_remote_code": config.trust_remote_code,
        "model_init_kwargs": revision | (config.trl.get("model_init_kwargs") or {}),
    }


def takes_token_rows(trainer_class: type) -> type:
    """`trainer_class` that leaves the rows alone: the data stage has tokenised and cut them."""

    def as_they_are(self: Any, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    return type(trainer_class.__name__, (trainer_class,), {"_prepare_dataset": as_they_are})


def base_model_note(config: RunConfig) -> str:
    """What to say where preferences are to be taught to a model that can't chat."""
    return (
        f"{config.model} has no chat template of its own: it looks like a base model. {config.method} moves "
        "what a model says already; train sft first and go on with init_from, or take the instruct version"
    )
