"""Chips and machines: memory, rates and prices, each with source and date, from hardware.toml or the Hub."""

from __future__ import annotations

import difflib
import queue
import re
import threading
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import ConfigError, first_line

if TYPE_CHECKING:
    from huggingface_hub import JobHardwareInfo

Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8"]

HF_JOBS = "hf-jobs"
LOCAL = "local"
_HUB_SOURCE = "https://huggingface.co/api/jobs/hardware"
# A plan answers in about a second; a price list that is late is worth less than the answer.
_TIMEOUT_S = 3.0
_HOURLY = {"second": 3600.0, "minute": 60.0, "hour": 1.0}
_GIB_PER_GB = 1e9 / 2**30
# Names of marketing that the driver puts before some chips and not before others.
_BRANDS = re.compile(r"^(nvidia|tesla|amd)\s+")


@dataclass(frozen=True)
class Source:
    """Where a figure was read. `date` is the source's own, or with `undated` the day it was read."""

    address: str
    date: date
    says: str
    undated: bool = False


@dataclass(frozen=True)
class Chip:
    """One accelerator, or for `kind` "cpu" one vCPU. What isn't known is None or missing, never guessed.

    `memory_gib` is what a process can get (CUDA's own total, in GiB of 2^30 bytes), `marketed_gb` what the
    box says. `bandwidth_gb_s` and `interconnect_gb_s` (both directions together) are in 10^9 bytes a second;
    `peak_tflops` in 10^12 a second, dense, with sums in fp32. `derived` and `memory_derived` say how a figure
    was worked out where no source states it. Apple's chips are without bf16 here, as for `train.machine`.
    """

    key: str
    name: str
    kind: Literal["cuda", "rocm", "mps", "cpu"]
    peak_tflops: Mapping[Precision, float] = field(hash=False)
    native_bf16: bool
    sources: tuple[Source, ...]
    marketed_gb: float | None = None
    memory_gib: float | None = None
    memory_source: Source | None = None
    memory_derived: str | None = None
    bandwidth_gb_s: float | None = None
    compute_capability: str | None = None
    interconnect_gb_s: float | None = None
    # A bridge joins two cards and is bought extra; the others are on the board.
    interconnect: Literal["switch", "mesh", "bridge"] | None = None
    derived: str | None = None
    device_names: tuple[str, ...] = ()
    hub_model: str | None = None


@dataclass(frozen=True)
class Machine:
    """Something to train on, for `price_usd_per_hour` as a whole (None: one's own, or no price was found).

    `chip` is None for "local" alone, which is measured instead. `host_memory_gb` is as the provider states
    it. `source` is that of price and shape.
    """

    name: str
    provider: str
    num_chips: int
    chip: Chip | None = None
    vcpus: int | None = None
    host_memory_gb: float | None = None
    price_usd_per_hour: float | None = None
    source: Source | None = None

    @property
    def price_date(self) -> date | None:
        """The day for which the source states the price, or None without a price."""
        return self.source.date if self.source and self.price_usd_per_hour is not None else None

    @property
    def memory_gib(self) -> float | None:
        """What one device offers a process, in GiB: of the chip, or on a CPU all of the host's memory."""
        if self.chip and self.chip.kind == "cpu" and self.host_memory_gb is not None:
            # Read as 10^9 bytes: at worst 7 % less than there is.
            return self.host_memory_gb * _GIB_PER_GB
        return self.chip.memory_gib if self.chip else None

    def peak_tflops(self, precision: Precision) -> float | None:
        """The dense peak of one device in TFLOP/s, on a CPU of all its vCPUs; None where none is known."""
        peak = self.chip.peak_tflops.get(precision) if self.chip else None
        if peak is None or self.chip is None or self.chip.kind != "cpu":
            return peak
        return peak * self.vcpus if self.vcpus else None


@dataclass(frozen=True)
class CurrentMachines:
    """The machines, whether the Hub gave the prices of its own, and a sentence that says which.

    `left_out` names the flavors that the Hub lists with a chip the table doesn't have.
    """

    machines: dict[str, Machine]
    from_hub: bool
    says: str
    left_out: tuple[str, ...] = ()


def machines() -> dict[str, Machine]:
    """Every machine of the built-in table by name: the HF Jobs flavors, other clouds, one's own, "local"."""
    return dict(_table()[1])


def chips() -> dict[str, Chip]:
    """Every chip of the built-in table by its key there."""
    return dict(_table()[0])


def machine(name: str) -> Machine:
    """The machine of that name in the built-in table.

    Raises:
        ConfigError: there is none; the error names the nearest.
    """
    known = _table()[1]
    if name in known:
        return known[name]
    near = _nearest(name, known)
    flavors = [each for each in known if known[each].provider == HF_JOBS]
    raise ConfigError(
        f"there is no hardware {name!r}",
        where="hardware",
        fix=f"did you mean {' or '.join(near)}?" if near else f"take one of {', '.join(flavors)}",
    )


def age_days(today: date) -> int:
    """Days since the oldest price of the built-in table: none of its prices is older."""
    return (today - min(each.price_date for each in _table()[1].values() if each.price_date)).days


def chip_named(device_name: str) -> Chip | None:
    """The chip that a driver reports by this name ("NVIDIA H100 80GB HBM3", "Tesla T4"), or None.

    The name has to be one of the table's as a whole: a Ti, a laptop's chip or a MIG slice is another chip.
    """
    asked = _plain(device_name)
    for chip in _table()[0].values():
        if asked in map(_plain, chip.device_names):
            return chip
    return None


def refreshed(
    machines: Mapping[str, Machine], listed: Iterable[JobHardwareInfo], *, today: date | None = None
) -> dict[str, Machine]:
    """The machines with the prices and shapes that `HfApi().list_jobs_hardware()` gave.

    Flavors that the table doesn't have come in where their chip is known; one that is listed with an unknown
    chip drops out, for its figures would be another chip's. A field that can't be read leaves what was there.
    Other providers' machines stay as they are.
    """
    source = Source(_HUB_SOURCE, today or date.today(), "prices and shapes of Hugging Face Jobs")
    result = dict(machines)
    for flavor in listed:
        before = result.get(flavor.name)
        chip = _chip_of(flavor.accelerator, before)
        if chip is None:
            result.pop(flavor.name, None)
            continue
        plain = before or Machine(flavor.name, HF_JOBS, 1)
        hourly = _HOURLY.get(flavor.unit_label)
        vcpus = _number(flavor.cpu)
        result[flavor.name] = replace(
            plain,
            chip=chip,
            num_chips=int(_number(flavor.accelerator.quantity) or 1) if flavor.accelerator else 1,
            vcpus=int(vcpus) if vcpus else plain.vcpus,
            host_memory_gb=_number(flavor.ram) or plain.host_memory_gb,
            # Rounded, as the Hub rounds a minute to micro-dollars: 60 of T4's make 0.40002 of 0.40.
            price_usd_per_hour=round(flavor.unit_cost_usd * hourly, 4)
            if hourly
            else plain.price_usd_per_hour,
            source=source if hourly else plain.source,
        )
    return result


def current_machines(
    offline: bool, *, endpoint: str | None = None, timeout_s: float = _TIMEOUT_S, today: date | None = None
) -> CurrentMachines:
    """The machines with the Hub's prices of this moment, or the built-in table where it gives none in time.

    Asks without a token: the list is public. `endpoint` is the Hub's address (None: huggingface_hub's own).
    """
    day = today or date.today()
    table = machines()
    if offline:
        return CurrentMachines(table, False, _table_says(day, "offline"))
    try:
        listed = _ask_hub(endpoint, timeout_s)
        fresh = refreshed(table, listed, today=day)
    except Exception as error:  # no answer of a price list, however odd, may stop a plan: the table stands in
        return CurrentMachines(table, False, _table_says(day, first_line(error)))
    left_out = tuple(flavor.name for flavor in listed if flavor.name not in fresh)
    says = f"prices of Hugging Face Jobs as the Hub gave them on {day}; the others from the built-in table"
    if left_out:
        says += f"; left out, their chips being unknown: {', '.join(left_out)}"
    return CurrentMachines(fresh, True, says, left_out)


def _ask_hub(endpoint: str | None, timeout_s: float) -> list[JobHardwareInfo]:
    """What the Hub lists. The client waits without end, so it waits in a thread that may be left behind."""
    from huggingface_hub import HfApi

    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(HfApi(endpoint=endpoint).list_jobs_hardware(token=False))
        except Exception as error:  # goes to the asking thread, which decides
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="tunesmith-prices").start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError(f"the Hub gave no prices within {timeout_s:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return list(answer)


def _table_says(today: date, why: str) -> str:
    flavors = [each for each in _table()[1].values() if each.provider == HF_JOBS]
    oldest = min(each.price_date for each in flavors if each.price_date)
    age = (today - oldest).days
    return f"prices from the built-in table, Hugging Face Jobs' of {oldest} ({age} days old): {why}"


def _chip_of(accelerator: Any, before: Machine | None) -> Chip | None:
    """The chip of a flavor, by the Hub's name for it and by memory, which tells an A100's two kinds apart.

    Under a name that the table doesn't have, a flavor keeps its chip as long as the memory is the same.
    """
    known = _table()[0]
    if accelerator is None:
        return known["cpu"]
    memory_gb, count = _number(accelerator.vram), _number(accelerator.quantity) or 1
    # The Hub's documentation says total; one card's is taken too.
    sizes = (memory_gb, memory_gb / count) if memory_gb else ()

    def fits(chip: Chip) -> bool:
        return any(chip.marketed_gb is not None and abs(chip.marketed_gb - size) <= 1 for size in sizes)

    for chip in known.values():
        if chip.hub_model and _plain(chip.hub_model) == _plain(accelerator.model) and fits(chip):
            return chip
    return before.chip if before and before.chip and fits(before.chip) else None


def _number(text: str) -> float | None:
    """The leading number of "12 vCPU", "46 GB" or "1.5 TB" (in GB), or None."""
    match = re.match(r"\s*(\d+(?:\.\d+)?)\s*(TB)?", text)
    return float(match[1]) * (1000 if match[2] else 1) if match else None


def _plain(name: str) -> str:
    return _BRANDS.sub("", " ".join(name.casefold().split()))


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three names: first those that hold what was typed ("h100"), then those spelled alike."""
    asked = name.lower()
    names = sorted(known, key=len)
    holding = [each for each in names if asked and asked in each]
    return (holding or difflib.get_close_matches(asked, names, n=3, cutoff=0.6))[:3]


@cache
def _table() -> tuple[dict[str, Chip], dict[str, Machine]]:
    """Chips and machines as hardware.toml has them, read once."""
    raw = tomllib.loads(files("tunesmith.plan").joinpath("hardware.toml").read_text(encoding="utf-8"))
    sources = {key: Source(**each) for key, each in raw["sources"].items()}
    chips: dict[str, Chip] = {}
    for key, each in raw["chips"].items():
        memory_source = each.pop("memory_source", None)
        chips[key] = Chip(
            key=key,
            peak_tflops=MappingProxyType(each.pop("peak_tflops")),
            sources=tuple(sources[name] for name in each.pop("sources")),
            memory_source=sources[memory_source] if memory_source else None,
            device_names=tuple(each.pop("device_names", ())),
            **each,
        )
    machines: dict[str, Machine] = {}
    for name, each in raw["machines"].items():
        chip, source = each.pop("chip", None), each.pop("source", None)
        machines[name] = Machine(
            name=name,
            chip=chips[chip] if chip else None,
            source=sources[source] if source else None,
            **each,
        )
    return chips, machines
