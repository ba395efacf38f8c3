"""The largest batch tried before the first step: what doesn't fit is known before anything was learned.

Rows come in random order, so the batch that needs most memory may be hours away. The order is drawn from the
seed, so which one it is can be told: it goes forward and back once, beside room for what the optimizer will
hold; nothing of it is kept.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from transformers import TrainerCallback

from tunesmith.errors import first_words
from tunesmith.train.ending import OutOfMemory, is_out_of_memory
from tunesmith.train.randomness import kept_randomness
from tunesmith.train.setup import Setup

# What TRL's trainers count while they compute a loss.
_COUNTED = ("_metrics", "_stored_metrics", "_total_train_tokens")
_NUMBERS = ("int8", "int32", "int64")
# Rows whose lengths are looked at together.
_ROWS_AT_ONCE = 10_000
# Rows of the run, in its order, among whose batches the largest is looked for.
_ROWS_AHEAD = 500_000


def try_largest_first(trainer: Any, setup: Setup) -> None:
    """Have `trainer` try its largest batch when it begins, beside room for what the optimizer will hold."""
    # The states of a paged optimizer lie on the host where they must.
    gib = 0.0 if "paged" in str(trainer.args.optim) else setup.plan.memory.items["optimizer"]
    tries = _LargestFirst(trainer, int(gib * 2**30), pads=setup.choice.attention == "padded")
    # Before the other callbacks, which count the time from their beginning on as that of the first step.
    trainer.callback_handler.callbacks.insert(0, tries)


class _LargestFirst(TrainerCallback):
    """Where it `pads`, each row of a batch takes as much as its longest."""

    def __init__(self, trainer: Any, optimizer_bytes: int, *, pads: bool) -> None:
        self._trainer = trainer
        self._optimizer_bytes = optimizer_bytes
        self._pads = pads

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        lengths = row_lengths(self._trainer.train_dataset)
        if not lengths:
            return

        def size(batch: Sequence[int]) -> int:
            each = [lengths[row] for row in batch]
            return max(each) * len(each) if self._pads else sum(each)

        with kept_randomness():
            largest = max(batches_ahead(self._trainer, state.max_steps), key=size)
        held = bool(self._trainer.optimizer.state)
        try:
            _try(self._trainer, largest, 0 if held else self._optimizer_bytes)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"the largest batch: {first_words(error)}") from error
        finally:
            self._trainer.model.zero_grad()


def batches_ahead(trainer: Any, num_steps: int, num_rows: int = _ROWS_AHEAD) -> Iterator[Sequence[int]]:
    """The rows of each micro-batch of a run of `num_steps` in its order, up to so many rows; one at least."""
    loader = trainer.get_train_dataloader()
    accumulate = trainer.args.gradient_accumulation_steps
    steps_an_epoch = math.ceil(len(loader) / accumulate)
    for epoch in range(math.ceil(num_steps / steps_an_epoch)):
        loader.set_epoch(epoch)
        left = (num_steps - epoch * steps_an_epoch) * accumulate
        for _, batch in zip(range(left), loader.batch_sampler, strict=False):
            yield batch
            num_rows -= len(batch)
            if num_rows <= 0:
                return


def row_lengths(dataset: Any) -> list[int]:
    """How long each row is, by all of its columns of numbers; empty where there are none."""
    import pyarrow.compute as pc

    features = getattr(dataset, "features", None) or {}
    kinds = {name: getattr(getattr(each, "feature", None), "dtype", None) for name, each in features.items()}
    columns = [name for name, kind in kinds.items() if kind in _NUMBERS]
    lengths: list[int] = []
    for table in dataset.with_format("arrow").iter(_ROWS_AT_ONCE) if columns else ():
        each = [pc.fill_null(pc.list_value_length(table[name]), 0).to_pylist() for name in columns]
        lengths += [sum(row) for row in zip(*each, strict=True)]
    return lengths


def _try(trainer: Any, rows: Sequence[int], reserved_bytes: int) -> None:
    """A forward and a backward pass of these rows, that leave nothing behind but gradients."""
    import torch

    before = {name: copy.deepcopy(getattr(trainer, name)) for name in _COUNTED if hasattr(trainer, name)}
    dataset = trainer._remove_unused_columns(trainer.train_dataset, "training")
    reserved = torch.empty(reserved_bytes, dtype=torch.uint8, device=trainer.args.device)
    model = trainer.model_wrapped
    model.train()
    try:
        with kept_randomness():
            inputs = trainer._prepare_inputs(trainer.data_collator([dataset[row] for row in rows]))
            offload = getattr(trainer, "maybe_activation_offload_context", nullcontext())
            with offload:
                with trainer.compute_loss_context_manager():
                    loss = trainer.compute_loss(model, inputs)
                trainer.accelerator.backward(loss)
    finally:
        del reserved
        for name, value in before.items():
            setattr(trainer, name, value)
