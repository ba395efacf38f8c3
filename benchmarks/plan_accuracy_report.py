"""What the planner and others say of the rows of plan_accuracy.py, how far they are off, and the fit.

Predictions are made anew from what a row says of itself, by the code as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import speed
from plan_accuracy_grid import (
    ANSWER,
    GROUP,
    NUM_STEPS,
    NUM_WARM,
    RANK,
    Row,
    lengths_of,
    write_texts,
)

from tunesmith.plan import calibration
from tunesmith.plan.architecture import Architecture, read_architecture, read_config
from tunesmith.plan.duration import Duration, estimate_step, probed_rows
from tunesmith.plan.hardware import Machine, chip_named, chips
from tunesmith.plan.memory import Memory, estimate_memory
from tunesmith.plan.parameters import Parameters, count_lora, count_parameters
from tunesmith.plan.workload import Batch, Configuration, Lengths, Workload, laid_out

GIB = 2**30
# Of a device's memory; what the planner leaves free.
MARGIN = 0.1

# ---- predictions


@dataclass(frozen=True)
class Predicted:
    """What the planner says of a row: by its lengths alone, and by the batches that it really had."""

    memory: Memory
    known: Memory
    step: Duration
    known_step: Duration
    num_params: int


@functools.cache
def architecture_of(size: str) -> tuple[Architecture, Parameters]:
    """Sizes as `plan` reads them: from the config.json that the run had."""
    with tempfile.TemporaryDirectory() as folder:
        config = read_config(speed.write_model(Path(folder) / "model", size))
    found = read_architecture(config)
    return found, count_parameters(found)


def made_anew(found: Mapping[str, Any]) -> tuple[Lengths, float]:
    """The lengths of a row that ran out of memory, or didn't run: those that its texts have."""
    row = Row(**found["row"])
    if "lengths" in found:
        return Lengths(**found["lengths"]), found["labelled_share"]
    with tempfile.TemporaryDirectory() as folder:
        answer = 4 if row.size == "toy" else ANSWER
        return lengths_of(write_texts(Path(folder) / "rows.jsonl", row), row, answer)


def machine_of(device: str) -> Machine:
    """The machine of a row: the table's chip of that name, or this CPU's cores."""
    chip = chip_named(device)
    return Machine(device, "here", 1, chip or chips()["cpu"], vcpus=None if chip else 2)


def predict(found: Mapping[str, Any]) -> Predicted:
    """By the code as it is, from what a row says of itself."""
    row = Row(**found["row"])
    architecture, parameters = architecture_of(row.size)
    lengths, labelled = made_anew(found)
    answer = 4 if row.size == "toy" else ANSWER
    sampled = row.micro_batch * row.accumulation if row.method == "grpo" else 0
    workload = Workload(
        row.method,
        row.tuning,  # type: ignore[arg-type]
        lengths,
        row.micro_batch * row.accumulation,
        NUM_STEPS,
        count_lora(architecture, RANK, "all-linear") if row.tuning != "full" else 0,
        labelled_share=labelled,
        texts_per_row=2 if row.method == "dpo" else 1,
        reference=row.reference,  # type: ignore[arg-type]
        num_generations=GROUP if sampled else 1,
        completion_length=answer if sampled else 0,
        num_sampled=sampled,
    )
    machine = machine_of(found["device"])
    how = Configuration(
        "cuda" if machine.chip and machine.chip.kind == "cuda" else "cpu",
        row.precision,  # type: ignore[arg-type]
        row.micro_batch,
        row.accumulation,
        found.get("attention", row.attention),
        row.checkpointing,
        row.captured,
        row.fused,
    )
    total = found.get("device_gib") or machine.memory_gib
    largest = Batch(*found["largest"]) if found.get("largest") else None
    parts = (architecture, parameters, workload, how)
    memory = estimate_memory(*parts, device_gib=total)
    known = estimate_memory(*parts, device_gib=total, largest=largest) if largest else memory
    step = estimate_step(*parts, machine)
    known_step = step
    if tokens := found.get("tokens_of_steps"):
        usual = middle_of(found["device"], tokens[NUM_WARM:]) / row.accumulation
        texts = workload.texts_per_row
        width = lengths.longest_of(row.micro_batch) / texts
        batch = laid_out(usual, width, row.micro_batch * texts, how.attention)
        known_step = estimate_step(*parts, machine, batch=batch)
    return Predicted(memory, known, step, known_step, parameters.total)


def middle_of(device: str, judged: list[float]) -> float:
    """What a step usually is: on GPUs the median, for some steps capture; on a CPU, where nothing else takes
    time and a step is as long as its tokens, the mean."""
    return statistics.fmean(judged) if device == "CPU" else statistics.median(judged)


def step_seconds(found: Mapping[str, Any]) -> float:
    """A row's step, as measured."""
    if found["device"] != "CPU":
        return found["step_s"]
    return middle_of("CPU", found["steps_s"][NUM_WARM - NUM_STEPS :])


def probe_seconds(found: Mapping[str, Any]) -> tuple[float, float]:
    """The mean step behind the probe, measured and as the probe says; steps in which a shape is captured are
    of another item of the plan."""
    usual = statistics.median(found["judged_s"])
    real = statistics.fmean(each for each in found["judged_s"] if each <= 2 * usual)
    told = probed_rows(found["probe_rows"], found["mean_tokens"], captured=found["row"]["captured"])
    return real, told.step_s(found["mean_tokens"])


# ---- what others say


def accelerate_gib(num_params: int, precision: str) -> float:
    """`accelerate estimate-memory`, its column "Training using Adam" (accelerate 1.15, commands/estimate.py,
    `estimate_training_usage`: the largest of its numbers, of fp32 bytes P: 4 P in fp32, 2 P in 16 bit)."""
    return num_params * 4 * (4 if precision == "fp32" else 2) / GIB


def deepspeed_gib(num_params: int, num_gpus: int = 1) -> float:
    """`estimate_zero2_model_states_mem_needs` without offloading (DeepSpeed, runtime/zero/stage_1_and_2.py):
    4 bytes a weight and 16 over all GPUs. Activations aren't in it, as its documentation says."""
    return (4 * num_params + 16 * num_params / num_gpus) / GIB


def old_rule_gib(num_params: int, tuning: str) -> float:
    """The rule of thumb of the script that `plan` replaced: 20 GB a billion weights, 4 with LoRA."""
    return num_params / 1e9 * (20 if tuning == "full" else 4)


def old_rule_step_s(num_params: int, rows_a_step: int) -> float:
    """The same for time: 0.1 h for 1,000 rows and a billion weights."""
    return 0.1 * 3600 * num_params / 1e9 * rows_a_step / 1000


# ---- report and fit


def usable(rows: list[dict[str, Any]], calibrates: bool | None) -> list[dict[str, Any]]:
    """Rows that ran, or ran out of memory, of one half or of both."""
    return [
        row
        for row in rows
        if "failed" not in row and (calibrates is None or Row(**row["row"]).calibrates == calibrates)
    ]


def spread(errors: list[float]) -> str:
    """Median and 95th percentile of absolute errors, in percent."""
    if not errors:
        return "- | -"
    ordered = sorted(errors)
    high = ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)]
    return f"{100 * statistics.median(ordered):.1f} % | {100 * high:.1f} %"


@dataclass
class _Errors:
    """Absolute errors of rows by who said it, what fits, and the list of rows."""

    memory: dict[str, list[float]]
    seconds: dict[str, list[float]]
    out_of_memory: int
    false_fits: list[str]
    refused: list[str]
    needlessly: list[str]
    lines: list[str]


def errors_of(rows: list[dict[str, Any]]) -> _Errors:
    """Of these rows."""
    errors = _Errors({}, {}, 0, [], [], [], [])
    for found in rows:
        row, told = Row(**found["row"]), predict(found)
        total = found.get("device_gib") or machine_of(found["device"]).memory_gib or 0.0
        fits = told.memory.fits(total, MARGIN, context_is_taken=False)
        if found.get("out_of_memory"):
            errors.out_of_memory += 1
            errors.false_fits += [row.name] if fits else []
            errors.lines.append(f"| {row.name} | out of memory | {told.memory.needed:.1f} | | | | | |")
            continue
        peak, step = found.get("peak_gib"), step_seconds(found)
        if peak:
            if not fits:
                had_room = peak + found["context_gib"] <= (1 - MARGIN) * total
                (errors.needlessly if had_room else errors.refused).append(row.name)
            for who, gib in {
                "plan, by lengths": told.memory.allocated,
                "plan, largest batch known": told.known.allocated,
                "accelerate": accelerate_gib(told.num_params, row.precision),
                "DeepSpeed, ZeRO-2": deepspeed_gib(told.num_params),
                "old rule": old_rule_gib(told.num_params, row.tuning),
            }.items():
                errors.memory.setdefault(who, []).append(abs(gib / peak - 1))
        old = old_rule_step_s(told.num_params, row.micro_batch * row.accumulation)
        for who, seconds in {
            "plan, by lengths": told.step.expected,
            "plan, tokens known": told.known_step.expected,
            "old rule": old,
        }.items():
            errors.seconds.setdefault(who, []).append(abs(seconds / step - 1))
        errors.lines.append(_line(row.name, peak, told, step))
    return errors


def _line(name: str, peak: float | None, told: Predicted, step: float) -> str:
    """A row's line of the list."""
    gib = (f"{peak:.2f} | {told.memory.allocated:.2f} | {told.known.allocated:.2f} | "
           f"{100 * (told.memory.allocated / peak - 1):+.1f} %") if peak else "- | - | - | -"  # fmt: skip
    off = 100 * (told.step.expected / step - 1)
    return f"| {name} | {gib} | {step:.3f} | {told.step.expected:.3f} | {off:+.0f} % |"


_HEAD = "| row | GiB measured | predicted | its batch known | off | step s | predicted | off |"


def report(rows: list[dict[str, Any]], probed_rows: list[dict[str, Any]]) -> str:
    """Errors of the held-out half and each of its rows, for each device, as Markdown."""
    chosen, lines = usable(rows, False), []
    for device in dict.fromkeys(each["device"] for each in [*chosen, *probed_rows]):
        here = [each for each in chosen if each["device"] == device]
        probes = [each for each in probed_rows if each["device"] == device and "judged_s" in each]
        lines += [*_of_device(device, here, probes), ""]
    return "\n".join(lines).rstrip()


def _of_device(device: str, rows: list[dict[str, Any]], probes: list[dict[str, Any]]) -> list[str]:
    """Lines of one device."""
    errors = errors_of(rows)
    told = [(each["name"], *probe_seconds(each)) for each in probes]
    if told:
        errors.seconds["plan, probed"] = [abs(expected / real - 1) for _, real, expected in told]
    lines = [f"### {device}", "", f"{len(rows)} rows, {errors.out_of_memory} of them out of memory"]
    lines += ["", "| of | who | rows | median error | 95th percentile |", "|---|---|---|---|---|"]
    for what, by_whom in (("peak memory", errors.memory), ("step time", errors.seconds)):
        lines += [f"| {what} | {who} | {len(off)} | {spread(off)} |" for who, off in by_whom.items()]
    margin = f"{100 * MARGIN:.0f} % margin"
    for says, names in {
        f"Predicted to fit with {margin} and out of memory": errors.false_fits,
        f"Refused with {margin}, and ran with less": errors.refused,
        f"Refused needlessly: {margin} was left": errors.needlessly,
    }.items():
        lines += ["", f"{says}: {', '.join(names) or 'none'}."]
    if errors.lines:
        lines += ["", _HEAD, "|---|---|---|---|---|---|---|---|", *errors.lines]
    if told:
        lines += ["", "| probed | mean step s | predicted | off |", "|---|---|---|---|"]
        lines += [f"| {name} | {real:.3f} | {said:.3f} | {100 * (said / real - 1):+.1f} % |"
                  for name, real, said in told]  # fmt: skip
    return lines


# What may be fitted.
FITTED_ON_CPU = ("cpu.products_fp32", "cpu.products_bf16")
FITTED = (
    "gpu.products", "gpu.products_half", "gpu.elementwise", "gpu.pass", "gpu.replay",
    "gpu.launch_layer", "gpu.launch_adapters", "gpu.launch_again", "gpu.decode_layer",
)  # fmt: skip
FACTORS = (1.3, 1.12, 1.05, 1.02)


@contextlib.contextmanager
def constants_as(values: Mapping[str, float]) -> Iterator[None]:
    """Inside, predictions use these in place of calibration.toml's."""
    before = calibration.constants
    known = dict(before())
    changed = known | {name: dataclasses.replace(known[name], value=value) for name, value in values.items()}
    calibration.constants = lambda: changed  # type: ignore[assignment]
    try:
        yield
    finally:
        calibration.constants = before


def fitted(loss: Callable[[Mapping[str, float]], float], start: Mapping[str, float]) -> dict[str, float]:
    """Constants at which `loss` is least: up and down, one after the other, by ever smaller factors."""
    best, least = dict(start), loss(start)
    for factor in FACTORS:
        before = math.inf
        while least < before * 0.998:
            before = least
            for name, by in ((name, by) for name in start for by in (factor, 1 / factor)):
                while (found := loss(tried := best | {name: best[name] * by})) < least * 0.9995:
                    best, least = tried, found
    return best


def fit(rows: list[dict[str, Any]]) -> str:
    """Better constants from the calibration half: those of steps by a search, memory's by means."""
    chosen = [row for row in usable(rows, True) if "step_s" in row]
    told = []
    for is_cpu, names in ((False, FITTED), (True, FITTED_ON_CPU)):
        if some := [row for row in chosen if (row["device"] == "CPU") == is_cpu]:
            told.append(_fit_steps(some, names))
    return "\n".join([*told, *_fit_memory(chosen)]) or "no rows of the calibration half yet"


def _fit_steps(rows: list[dict[str, Any]], names: tuple[str, ...]) -> str:
    """Constants of steps, by a search."""

    def loss(values: Mapping[str, float]) -> float:
        with constants_as(values):
            told = [(predict(row).known_step.expected, step_seconds(row)) for row in rows]
        off = [min(1.0, abs(math.log(step / real))) for step, real in told]
        # Not the mean alone: no single row may be far off.
        return statistics.fmean(off) + math.sqrt(statistics.fmean(each**2 for each in off)) / 2

    start = {name: calibration.constant(name) for name in names}
    best = fitted(loss, start)
    lines = [f"{len(rows)} rows; loss of steps {loss(start):.3f}, then {loss(best):.3f}"]
    lines += [f"{name}: {start[name]:g} -> {best[name]:.4g}" for name in names if best[name] != start[name]]
    return "\n".join(lines)


def _fit_memory(rows: list[dict[str, Any]]) -> list[str]:
    """Constants of memory, by means."""
    lines, on_gpu = [], [row for row in rows if "peak_gib" in row]
    if on_gpu:
        off = [row["peak_gib"] / predict(row).known.allocated - 1 for row in on_gpu]
        slack = [row["reserved_gib"] / row["peak_gib"] - 1 for row in on_gpu if not row["row"]["captured"]]
        lines.append(f"memory.error: the largest with the batch known {max(map(abs, off)):.3f}")
        lines.append(f"memory, mean error with the batch known {statistics.fmean(off):+.3f}")
        if slack:
            lines.append(
                f"memory.fragmentation: reserved / allocated - 1, median {statistics.median(slack):.3f}"
            )
        context = statistics.median(row["context_gib"] for row in on_gpu)
        lines.append(f"memory.context_cuda: {context:.2f}")
    return lines
