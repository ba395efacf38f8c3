"""What it costs to lose nothing: guards, the stall of a save, and whether a killed run equals its twin.

    python benchmarks/survival.py [--only save,cost,beside,resume,memory] [--device cuda] [--toy]

Rows go to results/survival.jsonl, each as soon as it is measured.

- cost: one training (0.5B LoRA, 16 rows of 400 tokens a step) in blocks of steps with and without the guards
  and what is noted of each step, in turn; a block's time is taken when the device is done.
- save: seconds that the steps wait for a checkpoint (0.5B full), in turn with `save_pretrained` of the same
  weights and transformers' own checkpoint of the same state, each on the same disk.
- beside: a step (0.5B full) while a checkpoint is written behind it, next to one while none is.
- resume: the same 0.5B LoRA run twice, and once killed (SIGKILL) between two checkpoints and gone on with.
- memory: a 0.5B full run twice, the second time with less memory than its planned micro-batch takes.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from record import append, conditions
from speed import NUM_WORDS, ROWS_A_STEP, fresh_model, write_model, write_rows

NUM_BLOCKS, BLOCK = 24, 20
NUM_SAVES = 5
RESUME_STEPS, SAVE_EVERY, KILL_AFTER = 60, 20, 30


def write_even(path: Path, toy: bool) -> Path:
    """Rows of one length, so that steps differ by nothing else."""
    draw = random.Random(7)
    with path.open("w") as file:
        for _ in range(64 if toy else 2000):
            words = [f"w{draw.randrange(NUM_WORDS)}" for _ in range(40 if toy else 399)]
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    return path


def prepared(
    folder: Path, device: str, toy: bool, tuning: str, num_steps: int, *, even: bool = False, **more: Any
) -> tuple[Any, Any, Any]:
    """A set-up, its run folder and its model."""
    import torch

    from tunesmith.config.loading import load_config
    from tunesmith.runs.folder import RunFolder
    from tunesmith.train.setup import set_up

    model = write_model(folder / "model", "toy" if toy else "0.5b")
    rows = (
        write_even(folder / "even.jsonl", toy)
        if even
        else write_rows(folder / "rows.jsonl", "sft", 64 if toy else 2000, 0.1 if toy else 1.0)
    )
    flags = {
        "method": "sft", "model": str(model), "dataset": str(rows), "tuning": tuning, "max_length": 1024,
        "max_steps": num_steps, "global_batch_size": ROWS_A_STEP, "logging_steps": 10, "seed": 42,
        "learning_rate": 1e-5, "device": device, "save_steps": 100_000, "allow": "D203,D208", **more,
    }  # fmt: skip
    config = load_config(flags=flags, assignments=["trl.report_to=none"], environ={}).config
    setup = set_up(config, lambda event: None)
    run = RunFolder.create(Path(tempfile.mkdtemp(dir=folder)) / "run", setup.record())
    dtype = torch.float32 if tuning == "full" or device == "cpu" else torch.bfloat16
    return setup, run, fresh_model(model, dtype, device)


def waited() -> float:
    """The time once the device is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure_cost(folder: Path, device: str, toy: bool) -> dict[str, Any]:
    """Seconds of a step with and without, of blocks in turn."""
    from transformers import Trainer

    from tunesmith.train import callbacks, checkpoints, guards, training

    blocks = 4 if toy else NUM_BLOCKS
    warm = 2 * BLOCK if toy else 100
    on = {"now": True}
    times: dict[bool, list[float]] = {True: [], False: []}
    began = {"at": 0.0}
    whole, finite = checkpoints._Whole, guards.FiniteGuard
    kept = {
        (whole, "training_step"): whole.training_step, (whole, "_clip_grad_norm"): whole._clip_grad_norm,
        (whole, "_maybe_log_save_evaluate"): whole._maybe_log_save_evaluate,
        (finite, "on_step_end"): finite.on_step_end,
        (guards.Watchdog, "on_step_end"): guards.Watchdog.on_step_end,
        (callbacks.KeeperCallback, "on_step_end"): callbacks.KeeperCallback.on_step_end,
    }  # fmt: skip
    for (owner, name), method in kept.items():
        inherited = owner is whole

        def either(
            self: Any, *args: Any, _name: str = name, _method: Any = method, _up: bool = inherited, **kw: Any
        ) -> Any:
            if on["now"]:
                return _method(self, *args, **kw)
            return getattr(super(whole, self), _name)(*args, **kw) if _up else None

        setattr(owner, name, either)
    step_begin = Trainer.get_batch_samples

    def at_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = self.state.global_step - warm
        if done >= 0 and done % BLOCK == 0:
            now = waited()
            if done:
                times[on["now"]].append((now - began["at"]) / BLOCK)
            on["now"] = (done // BLOCK) % 2 == 0
            began["at"] = waited()
        return step_begin(self, *args, **kwargs)

    Trainer.get_batch_samples = at_batch
    setup, run, model = prepared(folder, device, toy, "lora", warm + blocks * BLOCK + 1, even=True)
    training.train(setup, run, lambda event: None, model=model, keep=False)
    Trainer.get_batch_samples = step_begin
    for (owner, name), method in kept.items():
        setattr(owner, name, method)
    ratios = [with_it / without for with_it, without in zip(times[True], times[False], strict=False)]
    spread = random.Random(0)
    medians = sorted(statistics.median(spread.choices(ratios, k=len(ratios))) for _ in range(2000))
    return {
        "what": "cost", "on_ms": 1000 * statistics.median(times[True]),
        "off_ms": 1000 * statistics.median(times[False]), "ratio": statistics.median(ratios),
        "ratio_95": [medians[50], medians[1949]], "num_steps": blocks * BLOCK,
    }  # fmt: skip


def measure_save(folder: Path, device: str, toy: bool) -> dict[str, Any]:
    """Seconds that steps wait for our checkpoint, for save_pretrained, and for transformers' checkpoint."""
    from transformers import Trainer

    from tunesmith.train import checkpoints, training

    took: dict[str, list[float]] = {"ours": [], "save_pretrained": [], "transformers": [], "written_s": []}
    keep = checkpoints._Whole._keep

    def timed(self: Any, moment: dict[str, Any]) -> None:
        before = waited()
        keep(self, moment)
        took["ours"].append(waited() - before)
        self.keeper.wait()
        took["written_s"].append(waited() - before)
        plain = folder / "plain"
        before = waited()
        self.model.save_pretrained(plain)
        took["save_pretrained"].append(waited() - before)
        shutil.rmtree(plain)
        before = waited()
        Trainer.save_model(self, str(plain), _internal_call=True)
        Trainer._save_optimizer_and_scheduler(self, str(plain))
        Trainer._save_rng_state(self, str(plain))
        took["transformers"].append(waited() - before)
        shutil.rmtree(plain)

    checkpoints._Whole._keep = timed
    setup, run, model = prepared(folder, device, toy, "full", 4 * NUM_SAVES, save_steps=4.0)
    training.train(setup, run, lambda event: None, model=model, keep=False)
    checkpoints._Whole._keep = keep
    size = sum(path.stat().st_size for path in run.newest_checkpoint()[0].iterdir())
    shutil.rmtree(run.path)
    return {"what": "save", "gib": size / 2**30} | {
        name: list(map(float, each)) for name, each in took.items()
    }


def measure_beside(folder: Path, device: str, toy: bool) -> dict[str, Any]:
    """Seconds of a step while a checkpoint is written, and while none is."""
    from transformers import Trainer

    from tunesmith.train import training

    every = 8 if toy else 250
    times: dict[bool, list[float]] = {True: [], False: []}
    step_begin, last = Trainer.get_batch_samples, {"at": 0.0, "step": 0, "busy": False}

    def at_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        step, now = self.state.global_step, waited()
        writing = self.keeper._writing
        busy = writing is not None and not writing.done()
        # A step that follows a save holds its stall; the first ones find their kernels.
        if step > every // 2 and step % every and step == last["step"] + 1 and busy == last["busy"]:
            times[busy].append(now - last["at"])
        last.update(at=waited(), step=step, busy=busy)
        return step_begin(self, *args, **kwargs)

    Trainer.get_batch_samples = at_batch
    more = {"save_steps": float(every), "even": True}
    setup, run, model = prepared(folder, device, toy, "full", 2 * every + every // 2, **more)
    training.train(setup, run, lambda event: None, model=model, keep=False)
    Trainer.get_batch_samples = step_begin
    shutil.rmtree(run.path)
    medians = {busy: statistics.median(each) if each else None for busy, each in times.items()}
    means = {busy: statistics.fmean(each) if each else None for busy, each in times.items()}
    return {
        "what": "beside", "busy_ms": 1000 * (medians[True] or 0), "free_ms": 1000 * (medians[False] or 0),
        "busy_mean_ms": 1000 * (means[True] or 0), "free_mean_ms": 1000 * (means[False] or 0),
        "num_busy": len(times[True]), "num_free": len(times[False]),
    }  # fmt: skip


def run_child(command: list[str], folder: Path, kill_after: int | None = None) -> int:
    """Run `tunesmith`; killed once metrics.jsonl tells of step `kill_after`."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tunesmith", *command],
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    path = folder / command[command.index("--run-dir") + 1] / "metrics.jsonl"
    while child.poll() is None:
        if kill_after and path.is_file():
            lines = path.read_text().splitlines()
            if lines and f'"step": {kill_after}' in lines[-1]:
                for each in [*psutil.Process(child.pid).children(recursive=True), child]:
                    each.kill()
                break
        time.sleep(0.01)
    return child.wait()


def measure_resume(folder: Path, device: str, toy: bool, deterministic: bool) -> dict[str, Any]:
    """How far a run that was killed is from one that wasn't, and two that weren't from each other."""
    import torch
    from safetensors.torch import load_file

    prepared(folder, device, toy, "lora", 10)[2].save_pretrained(folder / "model")
    steps, every, kill = (12, 4, 6) if toy else (RESUME_STEPS, SAVE_EVERY, KILL_AFTER)
    command = [
        "train", "sft", "--model", "model", "--dataset", "rows.jsonl", "--max-length", "1024",
        "--max-steps", str(steps), "--global-batch-size", str(ROWS_A_STEP), "--logging-steps", "1",
        "--learning-rate", "1e-4",
        "--device", device, "--save-steps", str(every), "--allow", "D203,D208", "--set", "trl.report_to=none",
    ]  # fmt: skip
    if deterministic:
        command += ["--set", "trl.full_determinism=true"]
    name = "exact" if deterministic else "plain"
    codes = [run_child([*command, "--run-dir", f"{name}-twin{i}"], folder) for i in (1, 2)]
    codes.append(run_child([*command, "--run-dir", f"{name}-killed"], folder, kill))
    codes.append(run_child([*command, "--run-dir", f"{name}-killed"], folder))

    def losses(run: str) -> list[float]:
        rows = [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows if "loss" in row]

    def apart(one: str, other: str) -> dict[str, float]:
        first, second = (load_file(folder / run / "model/adapter_model.safetensors") for run in (one, other))
        weights = max(float((first[key] - second[key]).abs().max()) for key in first)
        return {
            "loss": max(abs(a - b) for a, b in zip(losses(one), losses(other), strict=True)),
            "weights": weights,
        }

    record = json.loads((folder / f"{name}-killed/run.json").read_text())
    return {
        "what": "resume", "deterministic": deterministic, "codes": codes, "num_steps": steps,
        "num_devices": record["machine"].get("num_devices"),
        "attention": record["choice"]["attention"], "captured": record["choice"]["may_capture"],
        "twins": apart(f"{name}-twin1", f"{name}-twin2"), "killed": apart(f"{name}-twin1", f"{name}-killed"),
        "torch": torch.__version__,
    }  # fmt: skip


def measure_memory(folder: Path, device: str, toy: bool) -> dict[str, Any]:
    """What becomes of a run whose micro-batch doesn't fit, as there is less memory than was planned with."""
    import torch

    from tunesmith.train import training

    prepared(folder, device, toy, "full", 6)[2].save_pretrained(folder / "model")
    on_gpu = device == "cuda"

    def trained(limit_gib: float | None) -> tuple[list[float], float, dict[str, Any]]:
        setup, run, _ = prepared(folder, device, toy, "full", 6, logging_steps=1)
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            total = torch.cuda.get_device_properties(0).total_memory / 2**30
            torch.cuda.set_per_process_memory_fraction(min(1.0, (limit_gib or total) / total))
        training.train(setup, run, lambda event: None, keep=False)
        peak = torch.cuda.max_memory_reserved() / 2**30 if on_gpu else 0.0
        losses = [row["loss"] for row in run.read_metrics() if "loss" in row]
        held = setup.plan.memory.items
        fixed = held["weights"] + held["gradients"] + held["optimizer"]
        return losses, peak, {"rows": setup.choice.per_device_train_batch_size, "fixed": fixed, **run.record}

    whole, peak_gib, planned = trained(None)
    limit_gib = planned["fixed"] + 0.6 * (peak_gib - planned["fixed"])
    less, less_gib, record = trained(limit_gib)
    return {
        "what": "memory", "rows_planned": planned["rows"], "peak_gib": peak_gib, "limit_gib": limit_gib,
        "peak_limited_gib": less_gib, "out_of_memory": record.get("out_of_memory"),
        "status": record["status"],
        "loss_apart": max(abs(a - b) for a, b in zip(whole, less, strict=True)),
    }  # fmt: skip


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="save,cost,beside,resume,memory")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args()
    import torch

    card = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    measures: dict[str, list[Callable[[Path], dict[str, Any]]]] = {
        "save": [lambda at: measure_save(at, given.device, given.toy)],
        "cost": [lambda at: measure_cost(at, given.device, given.toy)],
        "beside": [lambda at: measure_beside(at, given.device, given.toy)],
        "resume": [
            lambda at: measure_resume(at, given.device, given.toy, False),
            lambda at: measure_resume(at, given.device, given.toy, True),
        ],
        "memory": [lambda at: measure_memory(at, given.device, given.toy)],
    }  # fmt: skip
    for what in given.only.split(","):
        for measure in measures[what]:
            with tempfile.TemporaryDirectory(prefix="survival-") as place:
                row = measure(Path(place))
            append("survival_toy" if given.toy else "survival", {**conditions(), "device": card, **row})


if __name__ == "__main__":
    main()
