"""GRPO of SmolLM2-135M-Instruct on a reasoning-gym task: the reward curve, held-out answers before and after.

    python benchmarks/grpo_reasoning.py [--model FOLDER] [--task TASK] [--reward NAME]... [--steps 150]

Needs the extra reasoning-gym. Greedy answers to held-out prompts of another seed are scored by the task's
own scorer, which asks for the bare number; `lenient` counts the last number of the answer, however it is put.
A row goes to results/grpo_reasoning.jsonl, the steps to results/grpo_reasoning_curve.jsonl.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from record import append, conditions

from tunesmith.demo import weights

NUM_HELDOUT = 200


def scores(rows, answers) -> dict[str, float]:
    """The share of right answers by the task's own scorer, and by the last number in them."""
    from tunesmith.rewards.loading import load_reward

    columns = {name: [row[name] for row in rows] for name in rows[0]}
    given = {"completions": answers, "prompts": [row["prompt"] for row in rows], **columns}
    full = [score == 1 for score in load_reward("reasoning_gym")(**given)]
    lenient = load_reward("numeric_answer")(**given)
    return {"exact": round(sum(full) / len(rows), 3), "lenient": round(sum(lenient) / len(rows), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(weights.model_path()))
    parser.add_argument("--task", default="chain_sum,min_terms=2,max_terms=2,min_digits=1,max_digits=2")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--reward", action="append", help="default: reasoning_gym alone")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    from tunesmith.config.loading import load_config
    from tunesmith.evaluate.answers import generate_answers
    from tunesmith.runs.folder import RunFolder
    from tunesmith.train.events import Progress
    from tunesmith.train.setup import load_base, set_up
    from tunesmith.train.training import train

    rewards = options.reward or ["reasoning_gym"]
    flags = {
        "method": "grpo", "model": options.model, 
        "rewards": rewards, "num_generations": 8, "global_batch_size": options.batch,
        "max_completion_length": 24, "max_steps": options.steps, "learning_rate": options.learning_rate,
        "logging_steps": 1, "device": options.device, "seed": 1,
        "max_length": 128, "save_steps": options.steps,
    }  # fmt: skip

    def prepared(problems: str):
        dataset = {"dataset": f"reasoning_gym:{options.task},{problems}"}
        config = load_config(flags=flags | dataset, assignments=["trl.report_to=none"], environ={}).config
        return set_up(config, lambda event: None)

    setup = prepared("size=4000,seed=1")
    rows = list(prepared(f"size={NUM_HELDOUT},seed=900000").data.train)
    prompts = [row["prompt"] for row in rows]
    model = load_base(setup, print)
    before = scores(rows, generate_answers(model, setup.tokenizer, prompts, max_new_tokens=24))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", setup.record())

        def keep(event) -> None:
            if isinstance(event, Progress) and event.metrics:
                row = {"step": event.step, **event.metrics, "time_s": round(time.monotonic() - began, 1)}
                append("grpo_reasoning_curve", row)

        began = time.monotonic()
        result = train(setup, run, keep, model=model)
        took = time.monotonic() - began
        samples = [row for row in run.read_completions() if row["step"] in (1, options.steps)]
    after = scores(rows, generate_answers(result.model, setup.tokenizer, prompts, max_new_tokens=24))
    append(
        "grpo_reasoning",
        {
            "task": options.task, "steps": options.steps, "answers_a_step": options.batch,
            "learning_rate": options.learning_rate, "rewards": rewards, "device": setup.machine.device_name,
            "before": before, "after": after, "num_heldout": len(rows), "train_s": round(took, 1),
            "samples": samples, **conditions(),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
