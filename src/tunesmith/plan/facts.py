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
    # PyTorch's attention over documents of different lengths.
    has_varlen: bool = False


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of a causal language model and of the part that is trained (numbers of parameters)."""

    num_params: int
    num_trainable_params: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    # Of a token's keys in one layer (its values are as many), and of both ends of the model.
    kv_width: int = 0
    num_embedding_params: int = 0


@dataclass(frozen=True)
class Load:
    """What a method asks for beside the trained model and its rows.

    `whole_logits` is for losses that keep the logits of every token; `num_frozen_params` is what other models
    hold (a reference, a teacher); `smallest_micro_batch` are the rows that the loss has to see together, and
    `num_sampled` the answers that a device generates at a time.
    """

    whole_logits: bool = False
    num_frozen_params: int = 0
    smallest_micro_batch: int = 1
    num_sampled: int = 0


PLAIN_LOAD = Load()
