"""The one place that decides precision, micro-batch and checkpointing, by what the machine can do."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tunesmith.config.run_config import RunConfig
from tunesmith.errors import ConfigError
from tunesmith.plan.attention import Attention, choose_attention
from tunesmith.plan.facts import PLAIN_LOAD, Load, MachineFacts, ModelFacts
from tunesmith.plan.workload import Lengths

GIB = 2**30
# Bytes an fp32 AdamW keeps per trained weight: weight, gradient, two moments.
TRAINED_BYTES = 16
# NormalFloat4 with its quantised constants: 4.127 bits a weight (QLoRA paper, arXiv 2305.14314, section 3).
FOUR_BIT_BYTES = 4.127 / 8
# A run may use this share of what is free; the rest is fragmentation and what the estimate misses.
MEMORY_SHARE = 0.8
# Micro-batches that a run may draw: memory is for the largest of them.
DRAWS = 10_000
# Arguments of TRL under which a step launches, keeps or adds up in its own way.
_OWN_STEP = ("torch_compile", "activation_offloading", "deepspeed", "fsdp")


@dataclass(frozen=True)
class Choice:
    """What was chosen for this run, and why in sentences."""

    device: Literal["cuda", "mps", "cpu"]
    precision: Literal["bf16", "fp16", "fp32"]
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    attention: Attention
    # Whether passes of the layers may be captured as CUDA graphs, in a run that isn't too short.
    may_capture: bool
    memory_gib: float
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The choice as run.json keeps it."""
        return asdict(self)


def choose(
    config: RunConfig, machine: MachineFacts, model: ModelFacts, rows: Lengths, load: Load = PLAIN_LOAD
) -> Choice:
    """The largest micro-batch that fits, with recomputed activations only where nothing else fits.

    The global batch is the user's and is never changed.

    Raises:
        ConfigError: fp16 was asked for on a CPU, or the batch can't be shared as pinned, over the devices, or
            into micro-batches as large as the loss needs them.
    """
    precision, why = choose_precision(config, machine)
    attention, how = choose_attention(config, machine, precision, load)
    free = machine.memory_gib * MEMORY_SHARE
    per_device = _sizes(config, machine.num_devices, load.smallest_micro_batch)
    wanted = config.gradient_checkpointing
    for checkpointing in (False, True) if wanted is None else (wanted,):
        for micro_batch in per_device:
            # Padded, rows count as long as the longest of them.
            padded = attention == "padded"
            num_tokens = (
                micro_batch * rows.longest if padded else math.ceil(rows.largest_batch(micro_batch, DRAWS))
            )
            need = memory_gib(model, precision, config.tuning, num_tokens, checkpointing, load, rows.longest)
            if need <= free or (micro_batch == per_device[-1] and (checkpointing or wanted is not None)):
                fit = (
                    f"{micro_batch} {'row' if micro_batch == 1 else 'rows'} at a time"
                    + (f" on each of {machine.num_devices}: " if machine.num_devices > 1 else ": ")
                    + f"about {max(need, 0.1):.1f} GiB of {machine.memory_gib:.1f} free"
                    + (", activations recomputed" if checkpointing else "")
                )
                return Choice(
                    machine.device,
                    precision,
                    micro_batch,
                    config.global_batch_size // (micro_batch * machine.num_devices),
                    checkpointing,
                    attention,
                    attention == "varlen"
                    and not checkpointing
                    and not any(config.trl.get(key) is not None for key in _OWN_STEP),
                    round(need, 2),
                    (why, fit, how),
                )
    raise AssertionError("unreachable: the last candidate is always taken")


def share_out(config: RunConfig, num_gpus: int, smallest_micro_batch: int = 1) -> int:
    """How many processes train: the largest number of GPUs that can share the global batch, or as asked.

    `num_gpus` is 0 on a machine without; `smallest_micro_batch` are the rows that the loss needs together.

    Raises:
        ConfigError: more were asked for than there are GPUs.
    """
    wanted = config.num_processes
    if wanted and num_gpus and wanted > num_gpus:
        raise ConfigError(
            f"num_processes {wanted} is more than the {num_gpus} GPU{'s' if num_gpus > 1 else ''} here",
            where="num_processes",
            fix="leave it out to use all, or make CUDA_VISIBLE_DEVICES name more",
        )
    if wanted:
        return wanted
    shares = [
        number
        for number in range(1, num_gpus + 1)
        if config.global_batch_size % number == 0
        and config.global_batch_size // number >= smallest_micro_batch
    ]
    return max(shares, default=1)


def _sizes(config: RunConfig, num_devices: int, smallest: int) -> list[int]:
    """The micro-batches that may be chosen, largest first."""
    pinned = pinned_batch(config, num_devices)
    found = [pinned] if pinned else micro_batches(config.global_batch_size, num_devices)
    sizes = [size for size in found if size >= smallest]
    if not sizes:
        raise ConfigError(
            f"{config.method} compares rows with each other: it needs {smallest} at a time, not {found[0]}",
            where="trl.per_device_train_batch_size" if pinned else "global_batch_size",
            fix=f"set it to {smallest} or more",
        )
    return sizes


def choose_precision(config: RunConfig, machine: MachineFacts) -> tuple[Literal["bf16", "fp16", "fp32"], str]:
    """The number format and the reason for it.

    Raises:
        ConfigError: fp16 was asked for on a CPU, where no training step exists for it.
    """
    if config.precision == "fp16" and machine.device == "cpu":
        raise ConfigError(
            "precision fp16 does not train on a CPU", where="precision", fix="use --precision fp32"
        )
    if config.precision != "auto":
        slow = config.precision == "bf16" and not machine.native_bf16
        return config.precision, f"{config.precision} as asked" + (
            ", though it isn't native here and is emulated many times slower" if slow else ""
        )
    if machine.device == "cuda":
        if machine.native_bf16:
            return "bf16", f"bf16: native on {machine.device_name}"
        return "fp16", f"fp16: {machine.device_name} has no native bf16"
    if machine.device == "cpu" and machine.native_bf16:
        return "bf16", "bf16: native on this CPU"
    return "fp32", "fp32: no native bf16 here, and emulating it is many times slower"


def pinned_batch(config: RunConfig, num_devices: int) -> int | None:
    """The micro-batch that `trl:` pins, or None.

    Raises:
        ConfigError: the pinned sizes don't multiply to global_batch_size.
    """
    micro = _pinned(config, "per_device_train_batch_size")
    accumulation = _pinned(config, "gradient_accumulation_steps")
    if micro is None and accumulation is None:
        return None
    total = config.global_batch_size
    given = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation}
    if total % ((micro or 1) * (accumulation or 1) * num_devices) or (
        micro and accumulation and micro * accumulation * num_devices != total
    ):
        said = " x ".join(f"{name} {size}" for name, size in given.items() if size is not None)
        raise ConfigError(
            f"{said} x {num_devices} device{'s' if num_devices > 1 else ''} does not make up "
            f"global_batch_size {total}",
            where="trl",
            fix="leave both out, or make them multiply to global_batch_size",
        )
    return micro or total // ((accumulation or 1) * num_devices)


def _pinned(config: RunConfig, key: str) -> int | None:
    size = config.trl.get(key)
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError(
            f"{key}: {size!r} should be a whole number above 0",
            where=f"trl.{key}",
            fix="leave it out: it is chosen to fit the memory",
        )
    return size


def micro_batches(global_batch_size: int, num_devices: int) -> list[int]:
    """Micro-batches that divide the global batch evenly over the devices, largest first.

    Raises:
        ConfigError: the global batch can't be shared by so many devices.
    """
    share, rest = divmod(global_batch_size, num_devices)
    if rest or share == 0:
        raise ConfigError(
            f"global_batch_size {global_batch_size} can't be shared by {num_devices} devices",
            where="global_batch_size",
            fix=f"use a multiple of {num_devices}",
        )
    return [size for size in range(share, 0, -1) if share % size == 0]


def memory_gib(
    model: ModelFacts,
    precision: str,
    tuning: str,
    num_tokens: int,
    checkpointing: bool,
    load: Load = PLAIN_LOAD,
    row_length: int = 0,
) -> float:
    """Memory of a training step in GiB: weights, optimizer, activations of `num_tokens` and the loss.

    Activations per token and layer: what torch 2.13 keeps of a Llama or Qwen2 layer of transformers 5.23 with
    as many key as query heads, counted at every saved tensor (2026-11-22, test_choice.py): four feed-forward
    widths and ten hidden ones in fp32, twelve in 16 bit, where norms work in fp32. No scores are kept.
    """
    value_bytes = 4 if precision == "fp32" else 2
    base_bytes = {"full": 4.0, "lora": float(value_bytes), "qlora": FOUR_BIT_BYTES}[tuning]
    # Embeddings and the output layer are never quantised.
    whole = model.num_embedding_params * (value_bytes - FOUR_BIT_BYTES) if tuning == "qlora" else 0.0
    weights = model.num_params * base_bytes + model.num_trainable_params * (
        TRAINED_BYTES - 4 * (tuning == "full")
    )
    hidden_widths = 10 if precision == "fp32" else 12
    per_layer = (4 * model.intermediate_size + hidden_widths * model.hidden_size) * value_bytes
    kept = model.num_layers * (model.hidden_size * value_bytes if checkpointing else per_layer)
    working = per_layer if checkpointing else 0.0
    # TRL computes most losses in chunks of tokens; two fp32 chunks of logits are alive at once. Where logits
    # are kept whole, so are their log-probabilities and the gradient.
    logits = (3 * num_tokens if load.whole_logits else 2 * min(num_tokens, 1024)) * model.vocab_size * 4
    # A reference is loaded as the trained model is: in fp32 where every weight of that is trained.
    weights += whole + load.num_frozen_params * (4 if tuning == "full" else value_bytes)
    # Answers are sampled before the step: keys and values of all of them, and nothing for the gradient.
    cache = 2 * model.num_layers * model.kv_width * value_bytes * load.num_sampled * row_length
    return (weights + max(num_tokens * (kept + working) + logits, cache)) / GIB
