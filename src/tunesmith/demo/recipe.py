"""The demos' settings: ordinary fields of a run, nothing that a user could not write into RUN.yaml."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.demo import preferences, sums
from tunesmith.demo.household import DATA_PATH

TRAIN_PATH = DATA_PATH / "train.jsonl"
HELDOUT_PATH = DATA_PATH / "heldout.jsonl"
# The upper twenty of thirty layers: the backward pass ends there, which is a fifth of the step.
UPPER_LAYERS = r".*\.layers\.[12]\d\..*_proj"
COMMON: dict[str, Any] = {
    "lora_target_modules": UPPER_LAYERS,
    "lora_r": 16,
    "max_length": 128,
    "logging_steps": 5,
    "save_total_limit": 2,
    "project": "tunesmith-demo",
}

Message = dict[str, str]


@dataclass(frozen=True)
class Question:
    """A held-out prompt; `reference` is an answer as it should be, `row` what the data say of it."""

    prompt: list[Message]
    reference: str
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A demo: what it teaches, its settings, and how its held-out answers are judged.

    `metric` is the name of the share of good answers, `good` and `bad` the words for one.
    """

    task: str
    settings: Mapping[str, Any]
    heldout_path: Path
    metric: str
    judge: Callable[[str, Question], bool]
    judged_by: str
    max_new_tokens: int
    trl: tuple[str, ...] = ()
    good: str = "right"
    bad: str = "wrong"
    baselines: Callable[[], dict[str, float]] = field(default=dict)

    def questions(self) -> list[Question]:
        """The held-out rows."""
        rows = [json.loads(line) for line in self.heldout_path.read_text(encoding="utf-8").splitlines()]
        return [_question(row) for row in rows]


def _question(row: dict[str, Any]) -> Question:
    if "messages" in row:
        return Question(row["messages"][:-1], row["messages"][-1]["content"], row)
    reference = row["chosen"][0]["content"] if "chosen" in row else row["answer"]
    return Question(row["prompt"], reference, row)


RECIPES: dict[str, Recipe] = {
    "sft": Recipe(
        task="a request at home becomes one strict JSON call. The model has never seen this format.",
        settings={
            **COMMON,
            "dataset": str(TRAIN_PATH),
            "num_train_epochs": 1.2,
            "global_batch_size": 8,
            "learning_rate": 2e-3,
        },
        heldout_path=HELDOUT_PATH,
        metric="exact_match",
        judge=lambda answer, question: answer == question.reference,
        judged_by="right is an answer that equals the reference to the letter",
        # The longest reference answer is 22 tokens; an answer that is longer is wrong whatever follows.
        max_new_tokens=32,
    ),
    "dpo": Recipe(
        task="answers that say what was done are preferred to apologies of the same length.",
        settings={
            **COMMON,
            "dataset": str(preferences.TRAIN_PATH),
            "max_steps": 24,
            "global_batch_size": 8,
            "learning_rate": 1e-3,
        },
        # The likelihood of the chosen answer beside the preference, as in Llama 3 (arXiv 2407.21783, section
        # 4.1.4): the preference alone is won by making the apologies unlikely, whatever is said instead.
        trl=("loss_type=[sigmoid, sft]", "loss_weights=[1.0, 0.5]"),
        heldout_path=preferences.HELDOUT_PATH,
        metric="preferred",
        judge=lambda answer, question: preferences.is_preferred(answer),
        judged_by="preferred is an answer that begins with Done and has no apology; facts aren't judged",
        max_new_tokens=32,
        good="preferred",
        bad="not preferred",
    ),
    "grpo": Recipe(
        task="two numbers are to be added. Nobody shows the model an answer: a reward says right or wrong.",
        settings={
            **COMMON,
            "dataset": str(sums.TRAIN_PATH),
            "rewards": "tunesmith.demo.sums:right_sum",
            "max_steps": 60,
            "global_batch_size": 32,
            "num_generations": 8,
            "max_completion_length": 12,
            "learning_rate": 3e-4,
        },
        heldout_path=sums.HELDOUT_PATH,
        metric="correct",
        judge=lambda answer, question: sums.is_right(answer, question.row["one"], question.row["other"]),
        judged_by="right is an answer that names the sum and no number beside the three",
        max_new_tokens=40,
        baselines=sums.baselines,
    ),
}
