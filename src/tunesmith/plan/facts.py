"""What a machine can do: `train.machine` measures it, the hardware table states it. No torch is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunesmith.plan.calibration import constant
from tunesmith.plan.hardware import LOCAL, Machine, chip_named, chips

# Varlen attention of torch 2.11 runs from Ampere on.
_VARLEN_CAPABILITY = 8.0


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
    # Liger's kernels, by which layers keep less.
    has_fused_kernels: bool = False
    num_cores: int = 1


def facts_of(machine: Machine, num_devices: int) -> MachineFacts | None:
    """A machine of the table as a run would find it, with `num_devices` of its chips in use; None for
    "local", and where the table doesn't know how much memory the chip has."""
    chip, memory = machine.chip, machine.memory_gib
    if chip is None or memory is None:
        return None
    device: Literal["cuda", "mps", "cpu"] = "cuda" if chip.kind == "rocm" else chip.kind
    capability = float(chip.compute_capability or 0) if chip.kind == "cuda" else 0.0
    return MachineFacts(
        device,
        chip.name,
        num_devices,
        memory - constant(f"memory.context_{device}"),
        chip.native_bf16,
        capability >= _VARLEN_CAPABILITY,
        capability >= _VARLEN_CAPABILITY,
        machine.vcpus or 1,
    )


def machine_here(facts: MachineFacts) -> Machine:
    """This machine as the table would have it: without a price, and without a chip that the table lacks."""
    chip = chips()["cpu"] if facts.device == "cpu" else chip_named(facts.device_name)
    return Machine(LOCAL, "here", facts.num_devices, chip, vcpus=facts.num_cores)
