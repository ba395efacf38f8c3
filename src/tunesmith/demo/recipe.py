"""The demo's settings: ordinary fields of a run, nothing that a user could not write into RUN.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DATA_PATH = Path(__file__).parent / "data"
TRAIN_PATH = DATA_PATH / "train.jsonl"
HELDOUT_PATH = DATA_PATH / "heldout.jsonl"
# The longest reference answer is 22 tokens; an answer that is longer is wrong whatever follows.
MAX_NEW_TOKENS = 32

SETTINGS: dict[str, Any] = {
    "dataset": str(TRAIN_PATH),
    "num_train_epochs": 1.2,
    "global_batch_size": 8,
    "learning_rate": 2e-3,
    # The upper twenty of thirty layers: the backward pass ends there, which is a fifth of the step.
    "lora_target_modules": r".*\.layers\.[12]\d\..*_proj",
    "lora_r": 16,
    "max_length": 128,
    "logging_steps": 5,
    "save_total_limit": 1,
    "project": "tunesmith-demo",
}


def heldout_rows() -> list[tuple[list[dict[str, str]], str]]:
    """The held-out requests as (messages up to the request, the right answer)."""
    rows = []
    for line in HELDOUT_PATH.read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        rows.append((messages[:-1], messages[-1]["content"]))
    return rows
