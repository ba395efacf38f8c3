"""`tunesmith train sft` against `trl sft` on a CPU: same model, data, batch and LoRA; real tokens a second.

    python benchmarks/cpu_speed.py [--repeats 3] [--model FOLDER] [--steps 10] [--slow-steps 2]

The variants take turns, so that a slow minute of the machine hits all of them. A training's own clock counts
(train_runtime: no imports, no loading), its first step included. Rows go to results/cpu_speed.jsonl.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from record import append, conditions

from tunesmith.demo import recipe, weights

BATCH_SIZE = 4
LORA_R, LORA_ALPHA = 16, 32


def trl_command(model: str, data: str, steps: int, *extra: str) -> list[str]:
    """TRL's own command line."""
    settings = {
        "model_name_or_path": model, "dataset_name": data, "output_dir": "trl-output", "max_steps": steps,
        "per_device_train_batch_size": BATCH_SIZE, "learning_rate": 2e-4, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "lora_r": LORA_R, "lora_alpha": LORA_ALPHA,
        "lora_dropout": 0.0, "lora_target_modules": "all-linear",
    }  # fmt: skip
    flags = [str(part) for key, value in settings.items() for part in (f"--{key}", value)]
    # Without --use_cpu TRL's defaults refuse a machine without a GPU.
    return [str(Path(sys.executable).with_name("trl")), "sft", "--use_peft", "--use_cpu", *flags, *extra]


def tunesmith_command(model: str, data: str, steps: int, *extra: str) -> list[str]:
    """Ours, at its defaults but for what has to be equal."""
    return [
        sys.executable, "-m", "tunesmith", "train", "sft",
        "--model", model, "--dataset", f"{data}/train.jsonl",
        "--max-steps", str(steps), "--global-batch-size", str(BATCH_SIZE), "--lora-r", str(LORA_R),
        "--lora-alpha", str(LORA_ALPHA), "--run-dir", "run", "--json", "--set", "trl.report_to=none",
        "--logging-steps", "1", *extra,
    ]  # fmt: skip


def trl_rate(output: str) -> float:
    """Real tokens a second from the log lines that TRL prints."""
    rows = [ast.literal_eval(match) for match in re.findall(r"\{'[^{}]*\}", output)]
    tokens = [float(row["num_tokens"]) for row in rows if "num_tokens" in row]
    seconds = [float(row["train_runtime"]) for row in rows if "train_runtime" in row]
    return max(tokens) / seconds[-1]


def measure(name: str, command: list[str], folder: Path) -> float:
    """Run one variant in `folder` and return real tokens a second."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    if name.startswith("trl"):
        return trl_rate(done.stdout + done.stderr)
    metrics = json.loads(done.stdout)["metrics"]
    return metrics["num_tokens"] / metrics["train_runtime"]


def main() -> None:
    """Interleave the variants and write their medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default=str(weights.model_path()))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--slow-steps", type=int, default=2, help="steps of TRL's bf16 default")
    args = parser.parse_args()
    model = str(Path(args.model).absolute())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "data").mkdir()
        shutil.copy(recipe.TRAIN_PATH, folder / "data" / "train.jsonl")
        data = str(folder / "data")
        fp32 = ("--bf16", "False", "--gradient_checkpointing", "False")
        variants = {
            "trl, defaults": trl_command(model, data, args.slow_steps),
            "trl, bf16=False, no checkpointing": trl_command(model, data, args.steps, *fp32),
            "tunesmith, defaults": tunesmith_command(model, data, args.steps),
            "tunesmith, loss on every token as TRL": tunesmith_command(
                model, data, args.steps, "--no-assistant-only-loss"
            ),
        }
        row = conditions()
        rates: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(args.repeats):
            for name, command in variants.items():
                rates[name].append(round(measure(name, command, folder), 2))
                print(name, rates[name][-1], flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        f"{ours} / {theirs}": round(medians[ours] / medians[theirs], 2)
        for ours in variants if ours.startswith("tunesmith")
        for theirs in variants if theirs.startswith("trl")
    }  # fmt: skip
    append(
        "cpu_speed",
        {**row, "model": Path(model).name, "batch_size": BATCH_SIZE, "tokens_per_s": rates, "ratios": ratios},
    )


if __name__ == "__main__":
    main()
