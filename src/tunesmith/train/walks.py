"""Fewer walks over the model: transformers goes through all modules or weights three times a step.

To set training mode, to forget gradients and to count parameters; with an adapter on 24 layers these are
about 20,000 Python calls, during which a GPU waits. What they do is done here without the walk.
"""

from __future__ import annotations

import functools
from typing import Any


def walk_less(model: Any) -> None:
    """Let `model`, whose trained weights stay the same ones from now on, do these three without a walk."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    set_mode = model.train
    # What is in another mode than the model around it (a base under a new adapter) is not looked at again.
    set_mode(model.training)

    def train(mode: bool = True) -> Any:
        return model if model.training is mode else set_mode(mode)

    def zero_grad(set_to_none: bool = True) -> None:
        for weight in trained:
            if set_to_none or weight.grad is None:
                weight.grad = None
            else:
                weight.grad.zero_()

    model.train, model.zero_grad = train, zero_grad
    # Only what counts floating point operations asks, at every batch.
    model.num_parameters = functools.cache(model.num_parameters)
