"""Whether captured passes have room beside one that isn't: the planner and training ask the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tunesmith.plan.memory import GIB, Memory
from tunesmith.plan.workload import Configuration, Workload, largest_batch


@dataclass(frozen=True)
class Room:
    """What a run takes of a device by its plan, in bytes.

    `eager` is the most of a step that isn't captured, `kept` are activations of a row of `largest` tokens,
    and `free` is what may be taken.
    """

    eager: float
    kept: float
    largest: int
    free: float

    @classmethod
    def of(cls, memory: Memory, workload: Workload, configuration: Configuration, free_gib: float) -> Room:
        """By the high estimate: without graphs a run is slower, without room it ends."""
        largest = largest_batch(workload, configuration).num_tokens
        return cls(memory.eager_most * GIB, memory.kept * GIB, largest, free_gib * GIB)

    def holds(
        self, num_tokens: int, of_weights: float, *, peak: float = 0.0, there: float = math.inf
    ) -> bool:
        """Whether graphs of a row of so many tokens fit, with what is laid out once for the trained weights.

        `peak` is the most that was seen of a step that isn't captured, `there` what the device has.
        """
        graphs = self.kept * num_tokens / self.largest
        return min(there, self.free) >= max(self.eager, peak) + graphs + of_weights
