"""What this machine can do, measured with torch and handed to the plan."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil

import psutil

from tunesmith.errors import ConfigError
from tunesmith.plan.facts import MachineFacts
from tunesmith.train.attention import has_varlen
from tunesmith.train.host_memory import available_bytes
from tunesmith.train.processes import first_says, join, smallest, world_size

GIB = 2**30


def probe_machine(wanted: str = "auto") -> MachineFacts:
    """The device a run would use and its abilities; of several processes each gets the same answer.

    Raises:
        ConfigError: `wanted` names a device that torch doesn't see here.
    """
    import torch

    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = wanted if wanted != "auto" else next(name for name in ("cuda", "mps", "cpu") if has[name])
    if not has[device]:
        raise ConfigError(
            f"device {device} was asked for, and torch {torch.__version__} sees none here",
            where="device",
            fix="tunesmith doctor shows what this machine has",
        )
    join(device)
    cores = (
        len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count()
    )
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return MachineFacts(
            "cuda",
            first_says(torch.cuda.get_device_name()),
            world_size(),
            smallest(free / GIB),
            bool(smallest(torch.cuda.is_bf16_supported(including_emulation=False))),
            bool(smallest(has_varlen())),
            importlib.util.find_spec("liger_kernel") is not None,
            cores,
        )
    free_gib = smallest(available_bytes() / GIB) / world_size()
    if device == "mps":
        return MachineFacts(
            "mps", f"Apple {platform.machine()}", 1, free_gib, native_bf16=False, num_cores=cores
        )
    return MachineFacts(
        "cpu", _cpu_name(), world_size(), free_gib, native_bf16=_cpu_has_native_bf16(), num_cores=cores
    )


def smallest_free_gib(facts: MachineFacts, number: int) -> float:
    """What each of `number` processes on this machine could take, told by the one process that asks."""
    if facts.device != "cuda":
        return facts.memory_gib / number
    import torch

    return min(torch.cuda.mem_get_info(each)[0] for each in range(number)) / GIB


def count_gpus(wanted: str = "auto") -> int:
    """The GPUs that a run on the device `wanted` could use."""
    # Where there is none torch, which takes seconds to import, needn't be asked.
    if wanted not in ("auto", "cuda") or shutil.which("nvidia-smi") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def _cpu_has_native_bf16() -> bool:
    """Whether products of bf16 have instructions of their own; emulated they take many times longer."""
    import torch

    probes = [
        getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    ]
    return any(probe and probe() for probe in probes)


def _cpu_name() -> str:
    count = psutil.cpu_count(logical=True)
    return f"CPU ({platform.machine()}, {count} cores)"
