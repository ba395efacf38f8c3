"""Memory and seconds of a step, predicted and measured, over a grid of configurations on one GPU.

    python benchmarks/plan_accuracy.py --time-budget 500 [--only 0.5b] [--probes] [--toy]
    python benchmarks/plan_accuracy.py --report | --fit

Models have the sizes of Qwen2.5 and Llama-3.2-1B and random weights. Every row (plan_accuracy_grid.py) is a
few steps of a real `tunesmith train` with its micro-batch pinned; it is appended to
results/plan_accuracy.jsonl as soon as it is measured, rows that are there for this device are skipped, so
that the grid can be spread over several calls. A row that runs out of memory says so. Rows with graphs have
texts of one length, so that the second step is captured; the others are log-normal, as those of speed.py.

The half of the grid that a checksum of its names picks calibrates (--fit), the other half judges (--report).
Predictions are made anew by the code as it is (plan_accuracy_report.py). With --probes rows of
results/plan_probe.jsonl are measured: runs whose first steps are a probe as of `tunesmith plan --probe`.

Beside them stand accelerate's estimator and DeepSpeed's ZeRO-2 formula, which count weights alone, and the
rule of the script that ours replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import speed
from plan_accuracy_grid import (
    ANSWER,
    GROUP,
    JUDGED_STEPS,
    NUM_STEPS,
    NUM_WARM,
    RANK,
    Row,
    cpu_grid,
    grid,
    lengths_of,
    probes,
    toy_grid,
    write_texts,
)
from plan_accuracy_report import fit, predict, report
from record import append, conditions, rows_of

from tunesmith.plan.duration import PROBE_STEPS, PROBE_STEPS_CAPTURED
from tunesmith.plan.workload import Lengths

GIB = 2**30
# A row takes about so long: another isn't begun with less left.
A_ROW_S = 20


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


class RealRun(NamedTuple):
    """What a run tells of itself: its micro-batches, seconds of its steps, and the rows of metrics.jsonl."""

    attention: str
    lengths: Lengths
    labelled: float
    watch: Watch
    steps: list[float]
    metrics: list[dict[str, Any]]


@contextlib.contextmanager
def real_run(row: Row, device: str, num_steps: int, logging_steps: int) -> Iterator[RealRun]:
    """A real run of that many steps, done when it is entered; the model isn't saved."""
    import torch

    from tunesmith.config.loading import load_config
    from tunesmith.runs.folder import RunFolder
    from tunesmith.train import attention, training
    from tunesmith.train.events import Progress
    from tunesmith.train.setup import set_up

    where = Path(tempfile.mkdtemp())
    answer = 4 if row.size == "toy" else ANSWER
    try:
        folder = speed.write_model(where / "model", row.size)
        texts = write_texts(where / "rows.jsonl", row)
        flags, own = settings_of(row, folder, texts, device, answer)
        flags |= {"max_steps": num_steps, "logging_steps": logging_steps}
        setup = set_up(load_config(flags=flags, assignments=own, environ={}).config, lambda event: None)
        choice = setup.choice
        pinned = (row.micro_batch, row.accumulation, row.checkpointing)
        got = (choice.per_device_train_batch_size, choice.gradient_accumulation_steps,
               choice.gradient_checkpointing)  # fmt: skip
        assert got == pinned, got
        setup = dataclasses.replace(setup, choice=dataclasses.replace(choice, may_capture=row.captured))
        training.WORTH_CAPTURING = 0
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
        try:
            training.train(setup, run, listen, model=model, keep=False)
        finally:
            watch.handle.remove()
        lengths, labelled = lengths_of(texts, row, answer)
        yield RealRun(choice.attention, lengths, labelled, watch, clock.steps(), run.read_metrics())
    finally:
        shutil.rmtree(where, ignore_errors=True)


def measure(row: Row, device: str) -> dict[str, Any]:
    """One row of the grid: a few steps."""
    with real_run(row, device, NUM_STEPS, NUM_STEPS) as run:
        found: dict[str, Any] = {"lengths": dataclasses.asdict(run.lengths), "labelled_share": run.labelled}
        found |= {"attention": run.attention} | run.watch.told(row.accumulation)
        found |= speed.measured(run.steps, NUM_WARM)
        return found | {"steps_s": [round(each, 5) for each in run.steps]} | memory_of(device)


def measure_probe(row: Row, device: str) -> dict[str, Any]:
    """One row of the probes: the log of the first steps as `tunesmith plan --probe` has it, and seconds of
    those behind them, which are logged as seldom as in a run."""
    probe = PROBE_STEPS_CAPTURED if row.captured else PROBE_STEPS
    with logged_at_first(probe), real_run(row, device, probe + JUDGED_STEPS, 1) as run:
        kept = ("step", "time_s", "step_s", "tokens_per_s")
        rows = [{name: each[name] for name in kept if name in each} for each in run.metrics]
        return {
            "probe_rows": [each for each in rows if each["step"] <= probe],
            "mean_tokens": run.lengths.mean * row.micro_batch * row.accumulation,
            # The first of `steps` is that of step 2; the one behind the last log began on an idle device.
            "judged_s": [round(each, 5) for each in run.steps[probe:]],
        }


@contextlib.contextmanager
def logged_at_first(num_steps: int) -> Iterator[None]:
    """Inside, a run that logs each step does so for these alone, and then every tenth."""
    from transformers.trainer_callback import DefaultFlowCallback

    before = DefaultFlowCallback.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        control = before(self, args, state, control, **kwargs)
        if state.global_step > num_steps and state.global_step % 10:
            control.should_log = False
        return control

    DefaultFlowCallback.on_step_end = on_step_end
    try:
        yield
    finally:
        DefaultFlowCallback.on_step_end = before


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


def attempt(row: Row, device: str, how: Callable[[Row, str], dict[str, Any]]) -> dict[str, Any]:
    """What was measured, or why nothing was; the memory is free again."""
    import torch

    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        with contextlib.redirect_stdout(None):
            return how(row, device)
    except Exception as error:  # a row that fails leaves the others to be measured
        if is_out_of_memory(error):
            return {"out_of_memory": True} | memory_of(device)
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    finally:
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


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
    parser.add_argument("--probes", action="store_true", help="the rows of plan_probe.jsonl")
    options = parser.parse_args()
    grids, probed_too = ("plan_accuracy", "plan_probe") if not options.toy else (
        "plan_accuracy_toy", "plan_probe_toy")  # fmt: skip
    if options.report or options.fit:
        rows = rows_of(grids)
        print(report(rows, rows_of(probed_too)) if options.report else fit(rows))
        return
    import torch

    chosen = grid() if torch.cuda.is_available() else cpu_grid()
    if options.probes:
        run_rows(options, probed_too, toy_grid() if options.toy else probes(), measure_probe)
    else:
        run_rows(options, grids, toy_grid() if options.toy else chosen, measure)


def run_rows(
    options: argparse.Namespace, table: str, rows: list[Row], how: Callable[[Row, str], dict[str, Any]]
) -> None:
    """Measure what isn't in the table yet, until the time is over."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    done = {(row["name"], row["device"]) for row in rows_of(table) if "failed" not in row}
    began = time.monotonic()
    for row in rows:
        is_wanted = options.half is None or row.calibrates == (options.half == "calibration")
        if (row.name, name) in done or options.only not in row.name or not is_wanted:
            continue
        if time.monotonic() - began + (0 if options.toy else A_ROW_S) > options.time_budget:
            print(f"the time is over before {row.name}", flush=True)
            break
        started = time.monotonic()
        found = {"name": row.name, "device": name, "row": dataclasses.asdict(row), "toy": options.toy}
        found |= attempt(row, device, how)
        if "failed" not in found and how is measure:
            told = predict(found)
            found["predicted_gib"] = round(told.memory.allocated, 3)
            found["predicted_known_gib"] = round(told.known.allocated, 3)
            found["predicted_step_s"] = round(told.step.expected, 5)
        append(table, found | {"took_s": round(time.monotonic() - started, 1)} | conditions())


if __name__ == "__main__":
    main()
