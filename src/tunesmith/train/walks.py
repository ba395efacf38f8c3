"""Fewer walks over the model: transformers goes through all modules or weights four times a step.

To set training mode, to clip and to forget gradients and to count parameters; with an adapter on 24 layers
these are about 40,000 Python calls, during which a GPU waits. What they do is done here without the walk.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def walk_less(model: Any) -> Iterator[None]:
    """Inside, let `model`, whose weights stay the same ones, do these four without a walk."""
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    set_mode, own_weights = model.train, model.parameters
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

    def parameters(recurse: bool = True) -> Iterator[Any]:
        return iter(weights) if recurse else own_weights(recurse=False)

    model.train, model.zero_grad, model.parameters = train, zero_grad, parameters
    # Only what counts floating point operations asks, at every batch.
    model.num_parameters = functools.cache(model.num_parameters)
    try:
        yield
    finally:
        for name in ("train", "zero_grad", "parameters", "num_parameters"):
            del vars(model)[name]
