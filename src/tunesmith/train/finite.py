"""Steps whose numbers are none: what is raised, and which rows such a step learned from."""

from __future__ import annotations

import itertools
import math
from typing import Any


class NotFinite(Exception):
    """The loss or the gradients of a step are no numbers."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(
            f"{what} of step {step} {'are' if what == 'gradients' else 'is'} not a finite number"
        )
        self.step = step


def rows_of_step(trainer: Any, step: int, limit: int = 4) -> list[str]:
    """The first rows that `step` (from 1) learned from, by their numbers in the training set, with a look."""
    loader = trainer.get_train_dataloader()
    accumulate = trainer.args.gradient_accumulation_steps
    epoch, within = divmod(step - 1, math.ceil(len(loader) / accumulate))
    loader.set_epoch(epoch)
    batches = itertools.islice(loader.batch_sampler, within * accumulate, (within + 1) * accumulate)
    numbers = list(dict.fromkeys(number for batch in batches for number in batch))
    told = [f"row {number} ({_look(trainer, number)})" for number in numbers[:limit]]
    return told + ([f"and {len(numbers) - limit} more"] if len(numbers) > limit else [])


def _look(trainer: Any, number: int) -> str:
    row = trainer.train_dataset[number]
    for key in ("input_ids", "prompt_ids", "chosen_ids"):
        if key in row:
            return _short(trainer.processing_class.decode(row[key][:40]))
    return _short(str(row.get("prompt", "")))


def _short(text: str) -> str:
    words = " ".join(text.split())
    return repr(words[:60] + ("..." if len(words) > 60 else ""))
