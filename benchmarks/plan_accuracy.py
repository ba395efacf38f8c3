"""Memory and seconds of a step, predicted and measured, over a grid of configurations on one GPU.

    python benchmarks/plan_accuracy.py --time-budget 500 [--only 0.5b] [--toy]
    python benchmarks/plan_accuracy.py --report | --fit

Models have the sizes of Qwen2.5 and Llama-3.2-1B and random weights. Every row is a few steps of a real
`tunesmith train` with its micro-batch pinned; it is appended to results/plan_accuracy.jsonl as soon as it is
measured, rows that are there for this device are skipped, so that the grid can be spread over several calls.
A row that runs out of memory says so. Rows with graphs have texts of one length, so that the second step is
captured; the others are log-normal, as those of speed.py.

The half of the grid that a checksum of its names picks calibrates (--fit), the other half judges (--report).
Predictions are made anew from what the rows say of themselves, by the code as it is.

Beside them stand accelerate's estimator and DeepSpeed's ZeRO-2 formula, which count weights alone, and the
rule of the script that ours replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import gc
import json
import math
import random
import shutil
import statistics
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import speed
from record import append, conditions, rows_of

from tunesmith.plan import calibration
from tunesmith.plan.architecture import Architecture, read_architecture, read_config
from tunesmith.plan.duration import Duration, estimate_step, probed
from tunesmith.plan.hardware import Machine, chip_named, chips
from tunesmith.plan.memory import Memory, estimate_memory
from tunesmith.plan.parameters import Parameters, count_lora, count_parameters
from tunesmith.plan.workload import Batch, Configuration, Lengths, Workload, laid_out

# Llama-3.2-1B, from its published config.json.
speed.SIZES["1b"] = (2048, 8192, 16, 32, 8, 128_256, True)
NUM_STEPS, NUM_WARM = 8, 3
GROUP, ANSWER = 8, 64
NUM_ROWS = 256
RANK = 16
GIB = 2**30
# A row takes about so long: another isn't begun with less left.
A_ROW_S = 20


@dataclass(frozen=True)
class Row:
    """A configuration of the grid. `scale` stretches speed.py's lengths (median 400 tokens, at most 1,024);
    with `length` all texts have so many tokens."""

    size: str
    tuning: str
    micro_batch: int
    accumulation: int = 1
    method: str = "sft"
    scale: float = 1.0
    length: int = 0
    attention: str = "varlen"
    checkpointing: bool = False
    precision: str = "bf16"
    captured: bool = False
    fused: bool = True
    reference: str = "none"

    @property
    def name(self) -> str:
        said = [self.method, self.size, self.tuning, f"{self.micro_batch}x{self.accumulation}"]
        said += [f"{self.length}t"] if self.length else [f"x{self.scale:g}"]
        said += [self.attention] if self.attention != "varlen" else []
        said += [self.precision] if self.precision != "bf16" else []
        said += [f"ref-{self.reference}"] if self.reference != "none" else []
        flags = {"checkpointing": self.checkpointing, "captured": self.captured, "unfused": not self.fused}
        return "-".join(said + [flag for flag, is_on in flags.items() if is_on])

    @property
    def calibrates(self) -> bool:
        """Whether it is of the half that constants may be fitted to."""
        return zlib.crc32(self.name.encode()) % 2 == 0


def grid() -> list[Row]:
    """The configurations, cheapest models first."""
    rows = []
    for size in ("0.5b", "1b", "1.5b"):
        for tuning in ("lora", "full"):
            large = 16 if size == "0.5b" else 8
            rows += [
                Row(size, tuning, large),
                Row(size, tuning, 4, 2, scale=0.5),
                Row(size, tuning, large, length=400, captured=True),
                Row(size, tuning, 8, scale=0.5, attention="padded", fused=False),
                Row(size, tuning, large, 2, checkpointing=True),
            ]
    rows += [
        Row("0.5b", "lora", 4, 4, length=200, captured=True),
        Row("0.5b", "lora", 32, length=400, captured=True),
        Row("0.5b", "lora", 4, scale=3.0),
        Row("1.5b", "full", 2, scale=3.0),
        Row("0.5b", "lora", 8, precision="fp32", scale=0.5, attention="blocks", fused=False),
        Row("1b", "full", 4, precision="fp32", scale=0.5, attention="padded", fused=False),
        Row("0.5b", "full", 8, method="dpo", reference="model"),
        Row("0.5b", "full", 8, method="dpo", reference="model", length=400, captured=True),
        Row("1.5b", "lora", 8, method="dpo", reference="adapter"),
        Row("1b", "lora", 4, 2, method="dpo", reference="adapter", attention="padded", fused=False),
        Row("1.5b", "full", 4, method="dpo", reference="precomputed", scale=0.5),
        Row("0.5b", "lora", 16, method="grpo", captured=True),
        Row("0.5b", "full", 16, method="grpo", captured=True),
        Row("1b", "lora", 16, method="grpo", captured=True, length=256),
        Row("1.5b", "lora", 16, 2, method="grpo", captured=True),
        Row("7b", "lora", 4, 2),
        Row("7b", "lora", 4, length=450, captured=True),
        Row("7b", "lora", 2, 4, scale=0.5, attention="padded", fused=False),
        Row("7b", "lora", 16, checkpointing=True),
        Row("7b", "lora", 4, method="dpo", reference="adapter", scale=0.5),
        # At the edge of 80 GB, and beyond it.
        Row("7b", "lora", 20),
        Row("7b", "lora", 32),
        Row("1.5b", "full", 48),
        Row("1b", "full", 64, length=600),
    ]
    return rows


def toy_grid() -> list[Row]:
    """A few of each kind, of a model that a CPU trains in seconds."""
    return [
        Row("toy", "lora", 4, 2, scale=0.05, attention="blocks", fused=False, precision="fp32"),
        Row("toy", "full", 4, scale=0.05, attention="padded", fused=False, precision="fp32",
            checkpointing=True),
        Row("toy", "lora", 2, method="dpo", reference="adapter", scale=0.05, attention="blocks", fused=False,
            precision="fp32"),
        Row("toy", "lora", 8, method="grpo", scale=0.05, attention="blocks", fused=False, precision="fp32"),
    ]  # fmt: skip


def write_texts(path: Path, row: Row) -> Path:
    """Rows as speed.py has them, or all of one length."""
    if not row.length:
        return speed.write_rows(path, row.method, NUM_ROWS, row.scale)
    draw = random.Random(7)

    def text(size: float) -> str:
        return " ".join(f"w{draw.randrange(speed.NUM_WORDS)}" for _ in range(max(2, int(size))))

    with path.open("w") as file:
        for _ in range(NUM_ROWS):
            made = {"text": text(row.length - 1)}
            if row.method == "grpo":
                made = {"prompt": text(row.length)}
            if row.method == "dpo":
                half = text(row.length / 2)
                made = {"prompt": half, "chosen": text(row.length / 2), "rejected": text(row.length / 2)}
            file.write(json.dumps(made) + "\n")
    return path


def lengths_of(path: Path, row: Row, answer: int) -> tuple[Lengths, float]:
    """Of rows as they are read in training, and the share of their tokens that is learned."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    counted = [{name: len(text.split()) for name, text in each.items()} for each in rows]
    if row.method == "dpo":
        answers = [each["chosen"] + each["rejected"] + 2 for each in counted]
        tokens = [2 * each["prompt"] + told for each, told in zip(counted, answers, strict=True)]
        return Lengths.of(tokens), sum(answers) / sum(tokens)
    if row.method == "grpo":
        tokens = [each["prompt"] + answer for each in counted]
        return Lengths.of(tokens), answer / statistics.fmean(tokens)
    return Lengths.of([each["text"] + 1 for each in counted]), 1.0


def settings_of(row: Row, folder: Path, texts: Path, device: str, answer: int) -> tuple[dict, list[str]]:
    """Flags and assignments of `tunesmith train`."""
    flags = {
        "method": row.method, "model": str(folder), "dataset": str(texts), "tuning": row.tuning,
        "max_length": 4096, "max_steps": NUM_STEPS, "lora_r": RANK, "precision": row.precision,
        "global_batch_size": row.micro_batch * row.accumulation, "logging_steps": NUM_STEPS, "seed": 42,
        "learning_rate": 1e-5, "device": device, "save_steps": 10_000, "allow": "D203,D208",
        "gradient_checkpointing": row.checkpointing,
    }  # fmt: skip
    own = ["trl.report_to=none", f"trl.per_device_train_batch_size={row.micro_batch}"]
    if row.attention == "padded":
        own.append("trl.model_init_kwargs={attn_implementation: sdpa}")
    if not row.fused:
        own.append("trl.use_liger_kernel=false")
    if row.method == "grpo":
        rewards = f"{Path(speed.__file__).resolve()}:words_that_differ"
        flags |= {"num_generations": GROUP, "max_completion_length": answer, "rewards": rewards}
    if row.method == "dpo" and row.reference != "precomputed":
        own.append("trl.precompute_ref_log_probs=false")
    return flags, own


class Watch:
    """What a run's micro-batches were: shapes at once, real tokens when they are asked for."""

    def __init__(self, model: Any) -> None:
        self.batches: list[tuple[int, int, Any]] = []
        self.handle = model.model.register_forward_pre_hook(self._seen, with_kwargs=True)

    def _seen(self, module: Any, args: Any, kwargs: Any) -> None:
        import torch

        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None or not torch.is_grad_enabled():
            return
        ends, mask = kwargs.get("cu_seq_lens_q"), kwargs.get("attention_mask")
        real: Any = ids.numel()
        if ends is not None:
            real = ends[-2].clone()  # what fills a row up is the last document
        elif mask is not None and mask.dim() == 2:
            real = mask.sum()
        elif mask is not None:
            # A mask of blocks: what fills up sees itself alone, as few others do.
            real = ids.numel()
        self.batches.append((ids.numel(), ids.shape[-1], real))

    def told(self, accumulation: int) -> dict[str, Any]:
        """The largest micro-batch as laid out, and the tokens of each step."""
        shapes = [each[:2] for each in self.batches]
        tokens = [float(each[2]) for each in self.batches]
        steps = [sum(tokens[at : at + accumulation]) for at in range(0, len(tokens), accumulation)]
        largest = max(shapes, default=(0, 0))
        return {"largest": list(largest), "tokens_of_steps": [round(each) for each in steps]}


def measure(row: Row, device: str) -> dict[str, Any]:
    """One row: a real run of a few steps."""
    import torch

    from tunesmith.config.loading import load_config
    from tunesmith.runs.folder import RunFolder
    from tunesmith.train import attention, captured, training
    from tunesmith.train.events import Progress
    from tunesmith.train.setup import set_up

    where = Path(tempfile.mkdtemp())
    answer = 4 if row.size == "toy" else ANSWER
    try:
        folder = speed.write_model(where / "model", row.size)
        texts = write_texts(where / "rows.jsonl", row)
        lengths, labelled = lengths_of(texts, row, answer)
        found: dict[str, Any] = {"lengths": dataclasses.asdict(lengths), "labelled_share": labelled}
        flags, own = settings_of(row, folder, texts, device, answer)
        setup = set_up(load_config(flags=flags, assignments=own, environ={}).config, lambda event: None)
        choice = setup.choice
        pinned = (row.micro_batch, row.accumulation, row.checkpointing)
        got = (choice.per_device_train_batch_size, choice.gradient_accumulation_steps,
               choice.gradient_checkpointing)  # fmt: skip
        assert got == pinned, got
        found["attention"] = choice.attention
        setup = dataclasses.replace(setup, choice=dataclasses.replace(choice, may_capture=row.captured))
        captured.WORTH_CAPTURING = 0
        attention.leave_out_cudnn()
        clock = speed.Clock(device)

        def listen(event: Any) -> None:
            if isinstance(event, Progress) and event.step > len(clock):
                clock.tick()

        dtype = torch.float32 if "full" in row.tuning or row.precision == "fp32" else torch.bfloat16
        run = RunFolder.create(where / "run", setup.record())
        if row.reference == "model":  # TRL loads it from the folder
            speed.fresh_model(folder, dtype, device).save_pretrained(folder)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        model = speed.fresh_model(folder, dtype, device)
        watch = Watch(model)
        save, training.save_model = training.save_model, lambda *_: None
        try:
            training.train(setup, run, listen, model=model)
        finally:
            training.save_model = save
            watch.handle.remove()
        steps = clock.steps()
        found |= watch.told(row.accumulation) | speed.measured(steps, NUM_WARM)
        found["steps_s"] = [round(each, 5) for each in steps]
        return found | memory_of(device)
    finally:
        shutil.rmtree(where, ignore_errors=True)


def memory_of(device: str) -> dict[str, float]:
    """GiB at their most, and what lies outside of torch's allocator; nothing of a CPU."""
    if device != "cuda":
        return {}
    import torch

    free, total = torch.cuda.mem_get_info()
    return {
        "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 3),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 3),
        "context_gib": round((total - free - torch.cuda.memory_reserved()) / GIB, 3),
        "device_gib": round(total / GIB, 2),
    }


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether it, or what it came of, is CUDA's."""
    while error is not None:
        if type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def attempt(row: Row, device: str) -> dict[str, Any]:
    """What was measured, or why nothing was; the memory is free again."""
    import torch

    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        with contextlib.redirect_stdout(None):
            return measure(row, device)
    except Exception as error:  # a row that fails leaves the others to be measured
        if is_out_of_memory(error):
            return {"out_of_memory": True} | memory_of(device)
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    finally:
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


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
        usual = statistics.median(tokens[NUM_WARM:]) / row.accumulation
        texts = workload.texts_per_row
        width = lengths.longest_of(row.micro_batch) / texts
        batch = laid_out(usual, width, row.micro_batch * texts, how.attention)
        known_step = estimate_step(*parts, machine, batch=batch)
    return Predicted(memory, known, step, known_step, parameters.total)


def probe_error(found: Mapping[str, Any]) -> float | None:
    """How far the later counted steps lie, in the median, from what the earlier ones predict.

    The first counted step is the one after `NUM_WARM`; half of the counted steps are the probe.
    """
    steps, tokens = found.get("steps_s", ()), found.get("tokens_of_steps", ())
    if len(tokens) != len(steps) + 1:
        return None
    counted = list(zip(tokens[NUM_WARM:], steps[NUM_WARM - 1 :], strict=True))
    half = len(counted) // 2
    if not half:
        return None
    line = probed([(float(told), seconds) for told, seconds in counted[:half]])
    # As a run is judged: the mean of what is left.
    rest = counted[half:]
    expected = statistics.fmean(line.step_s(told) for told, _ in rest)
    return abs(expected / statistics.fmean(seconds for _, seconds in rest) - 1)


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


_HEAD = "| row | GiB measured | predicted | its batch known | step s | predicted | its tokens known |"


def report(rows: list[dict[str, Any]], calibrates: bool | None = False) -> str:
    """The table of errors of the held-out half, and each of its rows, as Markdown."""
    chosen = usable(rows, calibrates)
    memory: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    lines = ["", _HEAD, "|---|---|---|---|---|---|---|"]
    false_fits, refused = [], []
    for found in chosen:
        row, told = Row(**found["row"]), predict(found)
        total = found.get("device_gib", machine_of(found["device"]).memory_gib or 0.0)
        fits = told.memory.fits(total, 0.1, context_is_taken=False)
        if found.get("out_of_memory"):
            false_fits += [row.name] if fits else []
            lines.append(f"| {row.name} | out of memory | {told.memory.needed:.1f} | | | | |")
            continue
        refused += [] if fits else [row.name]
        if peak := found.get("peak_gib"):
            for who, gib in {
                "plan": told.memory.allocated,
                "plan, largest batch known": told.known.allocated,
                "accelerate": accelerate_gib(told.num_params, row.precision),
                "DeepSpeed, ZeRO-2": deepspeed_gib(told.num_params),
                "old rule": old_rule_gib(told.num_params, row.tuning),
            }.items():
                memory.setdefault(who, []).append(abs(gib / peak - 1))
        step = found["step_s"]
        rows_a_step = row.micro_batch * row.accumulation
        seconds.setdefault("plan", []).append(abs(told.step.expected / step - 1))
        seconds.setdefault("plan, tokens known", []).append(abs(told.known_step.expected / step - 1))
        old = old_rule_step_s(told.num_params, rows_a_step)
        seconds.setdefault("old rule", []).append(abs(old / step - 1))
        if (off := probe_error(found)) is not None:
            seconds.setdefault("plan, probed", []).append(off)
        lines.append(
            f"| {row.name} | {found.get('peak_gib', '-')} | {told.memory.allocated:.2f} | "
            f"{told.known.allocated:.2f} | {step:.4f} | "
            f"{told.step.expected:.4f} | {told.known_step.expected:.4f} |"
        )
    head = [
        f"{len(chosen)} rows, {sum(bool(each.get('out_of_memory')) for each in chosen)} out of memory",
        "",
    ]
    head += ["| of | who | median error | 95th percentile |", "|---|---|---|---|"]
    head += [f"| peak memory | {who} | {spread(errors)} |" for who, errors in memory.items()]
    head += [f"| step time | {who} | {spread(errors)} |" for who, errors in seconds.items()]
    head += ["", f"Predicted to fit with 10 % margin and out of memory: {', '.join(false_fits) or 'none'}."]
    head += [f"Ran though refused with that margin: {', '.join(refused) or 'none'}."]
    return "\n".join(head + lines)


# What may be fitted, and by which factors it is tried.
FITTED = (
    "gpu.products", "gpu.elementwise", "gpu.bandwidth", "gpu.products_half", "gpu.attention_half",
    "gpu.pass", "gpu.step", "gpu.launch_layer", "gpu.decode_layer",
)  # fmt: skip
FACTORS = (0.5, 0.7, 0.85, 0.93, 1.0, 1.08, 1.18, 1.4, 2.0)


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
    """Constants at which `loss` is least, one after the other over a grid of factors, three rounds."""
    best, least = dict(start), loss(start)
    for _ in range(3):
        for name in start:
            for factor in FACTORS:
                tried = best | {name: best[name] * factor}
                if (found := loss(tried)) < least * 0.999:
                    best, least = tried, found
    return best


def fit(rows: list[dict[str, Any]]) -> str:
    """Better constants from the calibration half: those of steps by a search, memory's by means."""
    chosen = [row for row in usable(rows, True) if "step_s" in row]
    if not chosen:
        return "no rows of the calibration half yet"

    def loss(values: Mapping[str, float]) -> float:
        with constants_as(values):
            told = [(predict(row).known_step.expected, row["step_s"]) for row in chosen]
        # The mean, not the median alone: no single row may be far off.
        return statistics.fmean(min(1.0, abs(math.log(step / real))) for step, real in told)

    start = {name: calibration.constant(name) for name in FITTED}
    best = fitted(loss, start)
    lines = [f"{len(chosen)} rows; mean |log error| of a step {loss(start):.3f}, then {loss(best):.3f}"]
    lines += [f"{name}: {start[name]:g} -> {best[name]:.4g}" for name in FITTED if best[name] != start[name]]
    on_gpu = [row for row in chosen if "peak_gib" in row]
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
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--time-budget", type=float, default=500, metavar="S")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name holds it")
    parser.add_argument("--half", choices=["calibration", "held-out"], help="rows of that half alone")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument(
        "--toy", action="store_true", help="a small model, on a CPU too; rows of their own file"
    )
    options = parser.parse_args()
    table = "plan_accuracy_toy" if options.toy else "plan_accuracy"
    if options.report or options.fit:
        print(report(rows_of(table)) if options.report else fit(rows_of(table)))
        return
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    done = {(row["name"], row["device"]) for row in rows_of(table) if "failed" not in row}
    began = time.monotonic()
    for row in toy_grid() if options.toy else grid():
        is_wanted = options.half is None or row.calibrates == (options.half == "calibration")
        if (row.name, name) in done or options.only not in row.name or not is_wanted:
            continue
        if time.monotonic() - began + (0 if options.toy else A_ROW_S) > options.time_budget:
            print(f"the time is over before {row.name}", flush=True)
            break
        started = time.monotonic()
        found = {"name": row.name, "device": name, "row": dataclasses.asdict(row), "toy": options.toy}
        found |= attempt(row, device)
        if "failed" not in found:
            told = predict(found)
            found["predicted_gib"] = round(told.memory.allocated, 3)
            found["predicted_known_gib"] = round(told.known.allocated, 3)
            found["predicted_step_s"] = round(told.step.expected, 5)
        append(table, found | {"took_s": round(time.monotonic() - started, 1)} | conditions())


if __name__ == "__main__":
    main()
