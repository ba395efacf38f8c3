"""The facts a choice rests on. `train.machine` and `train.model` measure them; nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MachineFacts:
    """Where the run would happen. `memory_gib` is what one device can still hand out."""

    device: Literal["cuda", "mps", "cpu"]
    device_name: str
    num_devices: int
    memory_gib: float
    native_bf16: bool


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of a causal language model and of the part that is trained (numbers of parameters)."""

    num_params: int
    num_trainable_params: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
