"""What a run may choose from: number formats, micro-batches, numbers of processes; and what was chosen."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tunesmith.config.run_config import RunConfig
from tunesmith.errors import ConfigError
from tunesmith.plan.attention import Attention
from tunesmith.plan.facts import MachineFacts
from tunesmith.plan.optimizer import optimizer_bytes

# From so many steps on captured passes earn back the seconds that capturing takes.
WORTH_CAPTURING = 50
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


def not_counted(config: RunConfig) -> tuple[str, ...]:
    """The arguments of TRL under which memory isn't what the plan counts."""
    found = [key for key in _OWN_STEP if key != "torch_compile" and config.trl.get(key)]
    if optimizer_bytes(config.trl.get("optim")) is None:
        found.append("optim")
    return tuple(f"trl.{key}" for key in found)


def may_capture(config: RunConfig, attention: Attention, checkpointing: bool) -> bool:
    """Whether passes of the layers can be captured as CUDA graphs."""
    own = any(config.trl.get(key) is not None for key in _OWN_STEP)
    return attention == "varlen" and not checkpointing and not own


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


def allowed_micro_batches(config: RunConfig, num_devices: int, smallest: int) -> list[int]:
    """The micro-batches that may be chosen, largest first; `smallest` rows the loss has to see together.

    Raises:
        ConfigError: none is as large, or the pinned sizes or the devices don't make up the global batch.
    """
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
