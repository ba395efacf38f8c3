"""Forward and backward of a batch of pairs and of groups, each prompt read once against once an answer.

The losses of DPO and GRPO ask for log-probabilities of answers to shared prompts. Both ways run in one
process on the same batch and weights, in turns, so that ratios hold whatever else the machine does. Rows that
are in results/shared_prompts.jsonl for this device and shape are skipped.

    python benchmarks/shared_prompts.py --model FOLDER [--budget-s 120] [--toy]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from record import append, conditions, rows_of

ROUNDS = 7
# Name, prompts, answers each, tokens of a prompt, tokens of an answer at most.
SHAPES = [
    ("pairs, short prompts", 8, 2, 64, 128),
    ("pairs, long prompts", 8, 2, 512, 128),
    ("groups of 8, short prompts", 8, 8, 64, 32),
    ("groups of 8", 8, 8, 256, 128),
]
TOY_SHAPES = [("pairs, toy", 2, 2, 24, 8), ("groups, toy", 1, 4, 24, 6)]


def batch(shape, vocab_size: int, device: str):
    """Input ids, attention mask and labels as TRL pads them; lengths are drawn from half to all."""
    import torch

    _, num_prompts, answers, prompt_tokens, answer_tokens = shape
    rng = random.Random(0)
    rows = []
    for _ in range(num_prompts):
        prompt = [rng.randrange(vocab_size) for _ in range(rng.randint(prompt_tokens // 2, prompt_tokens))]
        for _ in range(answers):
            size = rng.randint(answer_tokens // 2, answer_tokens)
            rows.append((prompt, [rng.randrange(vocab_size) for _ in range(size)]))
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    rests = [width - len(prompt) - len(answer) for prompt, answer in rows]
    made = [
        [prompt + answer + [0] * rest for (prompt, answer), rest in zip(rows, rests, strict=True)],
        [[1] * (width - rest) + [0] * rest for rest in rests],
        [
            [-100] * len(prompt) + answer + [-100] * rest
            for (prompt, answer), rest in zip(rows, rests, strict=True)
        ],
    ]
    return [torch.tensor(each, device=device) for each in made]


def seconds(model, given, device: str) -> float:
    """One forward and backward."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    ids, mask, labels = given
    with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
        out = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    out.log_probs.sum().backward()
    model.zero_grad()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(model, shape, device: str) -> dict[str, float]:
    """Medians of both ways, taken in turns."""
    from tunesmith.train.loss_head import labelled_positions_only
    from tunesmith.train.shared_prompts import share_prompts

    given = batch(shape, model.config.vocab_size, device)
    as_trl_does = model.forward
    share_prompts(model, print)
    ways = {"trl": as_trl_does, "shared": model.forward}
    times: dict[str, list[float]] = {name: [] for name in ways}
    with labelled_positions_only(device):
        for round_number in range(ROUNDS + 2):
            for name, forward in ways.items():
                model.forward = forward
                taken = seconds(model, given, device)
                if round_number >= 2:
                    times[name].append(taken)
    model.forward = as_trl_does
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {
        "trl_s": round(medians["trl"], 4),
        "shared_s": round(medians["shared"], 4),
        "ratio": round(medians["trl"] / medians["shared"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--budget-s", type=float, default=120)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).to(device)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    done = {(row["shape"], row["device"]) for row in rows_of("shared_prompts")}
    began = time.monotonic()
    for shape in TOY_SHAPES if options.toy else SHAPES:
        if (shape[0], name) not in done and time.monotonic() - began < options.budget_s:
            row = {"shape": shape[0], "sizes": shape[1:], "device": name, **measure(model, shape, device)}
            append("shared_prompts", row | conditions())


if __name__ == "__main__":
    main()
