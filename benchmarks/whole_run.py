"""Seconds of one whole run, from the command to the saved model: `tunesmith train` and TRL alone.

    python benchmarks/whole_run.py [--size 0.5b] [--steps 500] [--trl-steps 500] [--processes 1,2]
        [--tuning full] [--rows-a-step 64] [--toy]

SFT on the rows and the model of speed.py (random weights, read from disk), 16 rows a step unless asked. Each
way is a process of its own: its start, imports, data, steps and the saving are all in the time; `step_s` is
the median of its logs. A row goes to results/whole_run.jsonl. Where TRL's whole run takes too long,
--trl-steps measures fewer steps of it. With several --processes `tunesmith train` runs again with that many
GPUs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import append, conditions
from speed import ROWS_A_STEP, fresh_model, write_model, write_rows


def run_trl(model: Path, rows: Path, steps: int, output: Path) -> None:
    """As the example scripts have it."""
    from datasets import load_dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=str(output), max_steps=steps, per_device_train_batch_size=4,
        gradient_accumulation_steps=ROWS_A_STEP // 4, max_length=1024, report_to="none", save_strategy="no",
        learning_rate=1e-5, logging_steps=10, disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=str(model), args=arguments,
        train_dataset=load_dataset("json", data_files=str(rows), split="train"),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    trainer.save_model()


def tunesmith_command(
    model: Path, rows: Path, run: Path, processes: int, options: argparse.Namespace
) -> list[str]:
    return [
        sys.executable, "-m", "tunesmith", "train", "sft", "--model", str(model), "--dataset", str(rows),
        "--max-steps", str(options.steps), "--global-batch-size", str(options.rows_a_step),
        "--max-length", "1024", "--learning-rate", "1e-5", "--run-dir", str(run), "--allow", "D203,D208",
        "--num-processes", str(processes), "--tuning", options.tuning, "--set", "trl.report_to=none",
    ]  # fmt: skip


def step_s(run: Path) -> float | None:
    """Seconds of a step, by the times of the logs."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    pairs = [(b["time_s"] - a["time_s"]) / (b["step"] - a["step"]) for a, b in itertools.pairwise(rows)]
    return round(statistics.median(pairs), 4) if pairs else None


def timed(command: list[str], saved: Path) -> dict[str, object]:
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took = round(time.monotonic() - began, 1)
    if done.returncode or not saved.is_file():
        return {"failed": (done.stderr or done.stdout)[-600:], "wall_s": took}
    return {"wall_s": took, "said": done.stderr.splitlines()[-4:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="0.5b")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--trl-steps", type=int, default=500, help="0: leave TRL out")
    parser.add_argument("--processes", default="1")
    parser.add_argument("--tuning", default="lora", choices=("lora", "full"))
    parser.add_argument("--rows-a-step", type=int, default=ROWS_A_STEP, help="of tunesmith; TRL has 16")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--as-trl", nargs=4, metavar=("MODEL", "ROWS", "STEPS", "OUTPUT"))
    options = parser.parse_args()
    if options.as_trl:
        model, rows, steps, output = options.as_trl
        run_trl(Path(model), Path(rows), int(steps), Path(output))
        return
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = Path(tempfile.mkdtemp())
    size = "toy" if options.toy else options.size
    model = write_model(where / "model", size)
    fresh_model(model, torch.bfloat16, device).save_pretrained(model)
    number, scale = options.rows_a_step * options.steps, 0.05 if options.toy else 1.0
    rows = write_rows(where / "rows.jsonl", "sft", number, scale)
    if device == "cuda":
        torch.cuda.empty_cache()
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    key = {"size": size, "device": name}
    if options.trl_steps:
        output = where / "trl"
        command = [sys.executable, __file__, "--as-trl", *map(str, (model, rows, options.trl_steps, output))]
        found = timed(command, output / "adapter_config.json")
        append(
            "whole_run",
            {"way": "trl", "tuning": "lora", "steps": options.trl_steps, **key, **found} | conditions(),
        )
    for processes in map(int, options.processes.split(",")):
        run = where / f"run-{processes}"
        command = tunesmith_command(model, rows, run, processes, options)
        saved = "adapter_config.json" if options.tuning == "lora" else "config.json"
        found = timed(command, run / "model" / saved)
        if "failed" not in found:
            found["step_s"] = step_s(run)
        row = {"way": "tunesmith", "processes": processes, "tuning": options.tuning, "steps": options.steps}
        row["rows_a_step"] = options.rows_a_step
        append("whole_run", row | key | found | conditions())


if __name__ == "__main__":
    main()
