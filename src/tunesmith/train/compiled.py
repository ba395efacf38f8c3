"""The model's layers compiled, once the first steps of a run have shown that it pays.

One layer is compiled for all of them, in place: names of weights, and so what is saved, stay as they are.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

# Seconds to compile a layer forwards and backwards: 75 on one H100 (benchmarks/RESULTS.md). It saved half of
# a step there with padded, constant shapes (43,214 to 86,940 tokens/s at 0.5B LoRA); with rows as they come
# it isn't measured yet, so less is expected.
COST_S, GAIN = 75.0, 0.3
# The saving that is expected has to be so many times the cost.
MARGIN = 2.0
# The first steps choose kernels and find memory; the next show the pace.
NUM_WARM, NUM_WATCHED = 3, 4


def saves(step_s: float, num_steps_left: int) -> float:
    """Seconds that a run of so many steps would be shorter, the compiling counted in."""
    return step_s * num_steps_left * GAIN - COST_S


class CompileCallback(TrainerCallback):
    """Watches the first steps, and compiles the layers of `model` if that makes the run shorter."""

    def __init__(self, model: Any, notify: Callable[[str], None]) -> None:
        self._model = model
        self._notify = notify
        self._began_at = 0.0
        self._steps_s: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if len(self._steps_s) >= NUM_WARM + NUM_WATCHED:
            return
        self._steps_s.append(time.monotonic() - self._began_at)
        if len(self._steps_s) < NUM_WARM + NUM_WATCHED:
            return
        pace = statistics.median(self._steps_s[NUM_WARM:])
        saved = saves(pace, state.max_steps - state.global_step)
        if saved > (MARGIN - 1) * COST_S:
            num_layers = compile_layers(self._model)
            if num_layers:
                self._notify(
                    f"compiling the layers: about {COST_S:.0f} s, and about {saved / 60:.0f} min saved"
                )


def compile_layers(model: Any) -> int:
    """Let each decoder layer be compiled when it is next called; returns how many there are.

    A layer that can't be compiled runs as it is.
    """
    import torch
    from transformers.modeling_layers import GradientCheckpointingLayer

    torch._dynamo.config.suppress_errors = True
    layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
    for layer in layers:
        layer.compile(dynamic=True)
    return len(layers)
