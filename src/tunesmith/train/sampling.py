"""The order in which GRPO and RLOO take prompts, the same in an epoch however the run came to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """TRL's order of prompts, which it draws from a generator of its own, epoch after epoch.

    A run that goes on begins that generator anew and would take the first epoch's order once more. Here each
    epoch draws what the ones before it drew as well; `trainer` tells its number through `set_epoch`.
    """

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self._epoch = 0

    @classmethod
    def around(cls, sampler: Any) -> Any:
        """`sampler`, or this around one whose order depends on how often it was asked before."""
        own = getattr(sampler, "shuffle", False) and getattr(sampler, "seed", None) is not None
        return cls(sampler) if own and hasattr(sampler, "mini_repeat_count") else sampler

    def set_epoch(self, epoch: int) -> None:
        """Which epoch is asked for next, from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        import torch

        generator = self._sampler.generator
        generator.manual_seed(self._sampler.seed)
        for _ in range(self._epoch):
            torch.randperm(self._sampler.num_samples, generator=generator)
        return iter(self._sampler)

    def __len__(self) -> int:
        return len(self._sampler)
