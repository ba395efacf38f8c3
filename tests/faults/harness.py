"""Runs to kill, and the twin that they must equal to the last bit."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from method_data import write_method_data

HERE = Path(__file__).parent
NUM_STEPS = 8


class Zygote:
    """A process that has imported everything and forks for each command."""

    def __init__(self) -> None:
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def run(self, cwd: Path, *arguments: str, fault: dict[str, Any] | None = None, **how: Any) -> Attempt:
        """Run a command in `cwd`, with a `fault` as zygote.Shim takes it."""
        out = str(cwd) + "/last-"
        events = Path(out + "events.jsonl")
        events.unlink(missing_ok=True)
        request = {"cwd": str(cwd), "args": list(arguments), "fault": fault, "out": out, **how}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        told = [json.loads(line) for line in events.read_text().splitlines()] if events.is_file() else []
        err = Path(out + "stderr.txt").read_text()
        return Attempt(answer["code"], answer["seconds"], err, [(event, path) for _, event, path in told])

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True)
class Attempt:
    """How a command ended: its exit code (-9: killed), what it said, and what it did to checkpoints."""

    code: int
    seconds: float
    err: str
    events: list[tuple[str, str]]


@dataclass(frozen=True)
class Case:
    """A small training, by its command line without a run folder."""

    name: str
    arguments: tuple[str, ...]


def cases(model: Path, num_steps: int = NUM_STEPS) -> dict[str, Case]:
    """SFT, DPO and GRPO, with LoRA (and its dropout) and full, several epochs, saved every other step."""
    common = [
        "--model", str(model), "--global-batch-size", "4", "--logging-steps", "1", "--max-steps",
        str(num_steps), "--save-steps", "2", "--learning-rate", "0.01", "--set", "trl.report_to=none",
        "--precision", "fp32",
    ]  # fmt: skip
    methods = {
        "sft": ["sft", "--dataset", "chats.jsonl"],
        "dpo": ["dpo", "--dataset", "pairs.jsonl"],
        "grpo": [
            "grpo", "--dataset", "prompts.jsonl", "--max-rows", "4", "--rewards", "rewards.py:short",
            "--num-generations", "2",
            "--max-completion-length", "6", "--set", "trl.num_iterations=2",
            "--set", "trl.steps_per_generation=2", "--set", "trl.per_device_train_batch_size=4",
        ],
    }  # fmt: skip
    tunings = {"lora": ["--tuning", "lora", "--lora-dropout", "0.1"], "full": ["--tuning", "full"]}
    return {
        f"{method}-{tuning}": Case(f"{method}-{tuning}", (*options, *flags, *common))
        for method, options in methods.items()
        for tuning, flags in tunings.items()
    }


def write_data(folder: Path) -> None:
    """The rows of every case; few enough for several epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    write_method_data(folder, 10)


def outcome(run: Path) -> dict[str, Any]:
    """Everything that two runs must share: each step's figures as they stand in the file, and the weights."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("time_s", "step_s", "tokens_per_s", "step_time", "train_runtime", "train_samples_per_second",
             "train_steps_per_second", "train_loss", "total_flos", "reward/short/time")  # fmt: skip
    steps = [{key: value for key, value in row.items() if key not in timed} for row in rows]
    hashes = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((run / "model").glob("*.safetensors"))
    }
    return {"steps": [row for row in steps if "loss" in row or "eval_loss" in row], "weights": hashes}
