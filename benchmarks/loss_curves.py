"""Does Tunesmith's fast path learn as TRL's default path does? Loss curves of both, step by step.

    python benchmarks/loss_curves.py --model FOLDER --data FILE [--steps 200] [--seeds 42,1,2]
    python benchmarks/loss_curves.py --plot [--steps 200]

SFT with LoRA (rank 16, all linear layers, no dropout), 16 rows a step. For a seed all ways get the same token
rows with the same labels in the same order, the same first adapter, rate and schedule; a row of the results
holds what shows it (`order`, `adapter`). A training appends its row to results/loss_curves.jsonl when it is
done, and one that is there for this device is skipped. On a GPU TRL alone takes minutes for a seed: start one
process for each seed and way (--seeds, --ways) beside each other.

- trl: TRL's trainer with its defaults, batch 4 with 4 accumulated (--micro-batch for another).
- tunesmith: as `tunesmith train` does it. eager (by --ways only): its layers not captured.

The evaluation loss is of held-out rows, by plain transformers in fp32 with the saved adapter. --plot draws
results/loss_curves.svg (needs matplotlib), and prints and appends the numbers of the comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import itertools
import json
import random
import tempfile
import time
import traceback
from pathlib import Path
from statistics import fmean
from typing import Any

from record import RESULTS_PATH, append, conditions, rows_of

NAME = "loss_curves"
WAYS = ("trl", "tunesmith")
OWN_WAYS = ("tunesmith", "eager")
ROWS_A_STEP, MAX_LENGTH, EVAL_BATCH = 16, 1024, 8
LEARNING_RATE, SCHEDULE, WARMUP = 2e-4, "cosine", 0.03
SMOOTHED, LAST = 10, 50
COLOURS = {
    "trl": "#f28e2b",
    "tunesmith": "#1f4e9c",
    "eager": "#2ca02c",
}
LINES = ("-", "--", ":")


def split(data: Path, folder: Path, most: int | None, num_heldout: int) -> tuple[Path, Path]:
    """Files of rows to train on, whole steps of them, and of rows to evaluate on; no row is in both."""
    rows = json.loads(data.read_text(encoding="utf-8"))
    random.Random(7).shuffle(rows)
    heldout = rows[:num_heldout]
    train = [row for row in rows[num_heldout:] if row not in heldout][:most]
    train = train[: len(train) // ROWS_A_STEP * ROWS_A_STEP]
    for name, part in (("train", train), ("heldout", heldout)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder / "train.jsonl", folder / "heldout.jsonl"


def prepared(options: argparse.Namespace, rows: Path, seed: int, device: str) -> Any:
    """Tunesmith's set-up of a training on `rows`."""
    from tunesmith.config.loading import load_config
    from tunesmith.train.setup import set_up

    flags = {
        "method": "sft", "model": options.model, "dataset": str(rows), "max_length": MAX_LENGTH, "seed": seed,
        "max_steps": options.steps, "global_batch_size": ROWS_A_STEP, "lora_r": 16, "lora_alpha": 32,
        "learning_rate": LEARNING_RATE, "lr_scheduler_type": SCHEDULE, "warmup_steps": WARMUP,
        "logging_steps": 1, "device": device, "save_steps": 10_000,
    }  # fmt: skip
    config = load_config(flags=flags, assignments=["trl.report_to=none"], environ={}).config
    return set_up(config, lambda event: None)


def adapter_sum(model: Any) -> float:
    """A number that tells first adapters apart; rounding them to 16 bit hardly moves it."""
    parts = [
        each.detach().double().sum().item() for name, each in model.named_parameters() if "lora_A" in name
    ]
    return round(sum(parts), 3)


def logged(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Each step's loss, the tokens read in all, and a digest of how many were read by each step."""
    steps = [row for row in history if "loss" in row]
    tokens = [int(row["num_tokens"]) for row in steps]
    return {
        "losses": [round(row["loss"], 4) for row in steps],
        "tokens": tokens[-1],
        "order": hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:12],
    }


def run_trl(setup: Any, options: argparse.Namespace, seed: int, device: str, folder: Path) -> dict[str, Any]:
    """TRL alone, on the token rows of `setup`."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, set_seed
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=str(folder / "trl"), max_steps=options.steps,
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=ROWS_A_STEP // options.micro_batch, learning_rate=LEARNING_RATE,
        lr_scheduler_type=SCHEDULE, warmup_steps=WARMUP, max_length=MAX_LENGTH, seed=seed, logging_steps=1,
        report_to="none", save_strategy="no", disable_tqdm=True,
        **({"use_cpu": True, "bf16": False} if device == "cpu" else {}),
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).to(device)
    set_seed(seed)  # TRL draws the adapter before it sets the seed
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=setup.data.train, processing_class=setup.tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    adapter = adapter_sum(trainer.model)
    took = trainer.train().metrics["train_runtime"]
    trainer.save_model(str(folder / "adapter"))
    told = {"adapter": adapter, "train_s": round(took, 1), "batch": options.micro_batch}
    return logged(trainer.state.log_history) | told


def run_tunesmith(setup: Any, way: str, seed: int, folder: Path) -> dict[str, Any]:
    """`tunesmith train`; its layers are captured however short the run is."""
    from transformers import set_seed

    from tunesmith.runs.folder import RunFolder
    from tunesmith.train import training
    from tunesmith.train.events import Notice, Phase
    from tunesmith.train.setup import load_base

    may_capture = way == "tunesmith" and setup.choice.may_capture
    choice = dataclasses.replace(setup.choice, may_capture=may_capture)
    setup = dataclasses.replace(setup, choice=choice)
    training.WORTH_CAPTURING = 0
    notices: list[str] = []
    adapters: list[float] = []
    base = load_base(setup, lambda event: None)

    def listen(event: Any) -> None:
        if isinstance(event, Notice):
            notices.append(event.message)
        if event == Phase("training"):
            adapters.append(adapter_sum(base))

    run = RunFolder.create(folder / "run", setup.record())
    set_seed(seed)
    result = training.train(setup, run, listen, model=base)
    run.model_path.rename(folder / "adapter")
    return logged(run.read_metrics()) | {
        "adapter": adapters[0], "train_s": round(result.metrics["train_runtime"], 1), "notices": notices,
        "batch": choice.per_device_train_batch_size, "attention": choice.attention,
        "precision": choice.precision, "checkpointing": choice.gradient_checkpointing,
        "captured": may_capture,
    }  # fmt: skip


def evaluation_loss(folder: str, adapter: Path | None, rows: list[dict[str, Any]], device: str) -> float:
    """Mean loss over the labelled tokens of `rows`: plain transformers, fp32, padded."""
    import torch
    from peft import PeftModel
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModelForCausalLM

    def padded(lists: list[list[int]], value: int) -> Any:
        made = pad_sequence([torch.tensor(each) for each in lists], batch_first=True, padding_value=value)
        return made.to(device)

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    model = (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()
    total, number = 0.0, 0
    for first in range(0, len(rows), EVAL_BATCH):
        batch = rows[first : first + EVAL_BATCH]
        ids = padded([row["input_ids"] for row in batch], 0)
        mask = padded([[1] * len(row["input_ids"]) for row in batch], 0)
        labels = padded([row["labels"] for row in batch], -100)[:, 1:]
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        total += cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
        number += int((labels != -100).sum())
    return round(total / number, 5)


def run(options: argparse.Namespace, way: str, seed: int, device: str) -> dict[str, Any]:
    """One training, and the evaluation before and after it."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(None):
        folder = Path(temporary)
        rows, heldout = split(Path(options.data), folder, options.rows, options.heldout)
        setup = prepared(options, rows, seed, device)
        if way == "trl":
            found = run_trl(setup, options, seed, device, folder)
        else:
            found = run_tunesmith(setup, way, seed, folder)
        held = list(prepared(options, heldout, seed, device).data.train)
        found["eval_loss"] = evaluation_loss(options.model, folder / "adapter", held, device)
        found["eval_before"] = evaluation_loss(options.model, None, held, device)
    return found | {"num_rows": len(setup.data.train), "num_heldout": len(held)}


def measure(options: argparse.Namespace) -> None:
    """Train each way with each seed, but for what the results hold already."""
    import torch

    from tunesmith.train.attention import leave_out_cudnn

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    if device == "cuda":  # for TRL too: its gradients would be no numbers in batches of some lengths
        leave_out_cudnn()
    done = {(row["way"], row["seed"], row["steps"], row["device"]) for row in rows_of(NAME) if "way" in row}
    began = time.monotonic()
    for seed, way in itertools.product(map(int, options.seeds.split(",")), options.ways.split(",")):
        if (way, seed, options.steps, name) in done or time.monotonic() - began > options.budget_s:
            continue
        started = time.monotonic()
        try:
            found = run(options, way, seed, device)
        except Exception:  # the others can be trained all the same
            traceback.print_exc()
            continue
        key = {"way": way, "seed": seed, "steps": options.steps, "device": name}
        key |= {"model": Path(options.model).name, "data": Path(options.data).name}
        append(NAME, key | found | {"took_s": round(time.monotonic() - started, 1)} | conditions())


def smooth(values: list[float]) -> list[float]:
    """Means of SMOOTHED neighbours, the first for step SMOOTHED; of a shorter run the values as they are."""
    width = SMOOTHED if len(values) > SMOOTHED else 1
    return [fmean(values[end - width : end]) for end in range(width, len(values) + 1)]


def spread(values: list[float]) -> float:
    """The largest difference between two of them."""
    return max(values) - min(values)


def curves_of(steps: int) -> dict[str, dict[int, dict[str, Any]]]:
    """The rows of so many steps by way and seed, of the device that was measured last."""
    rows = [row for row in rows_of(NAME) if row.get("steps") == steps and "way" in row]
    rows = [row for row in rows if row["device"] == rows[-1]["device"]]
    ways = dict.fromkeys(row["way"] for row in sorted(rows, key=lambda row: row["way"] != "trl"))
    return {way: {row["seed"]: row for row in rows if row["way"] == way} for way in ways}


def compared(theirs: dict[int, dict[str, Any]], ours: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """How far a way is from TRL's, seed by seed; `*_seed_noise` is what the seed alone does to TRL's."""

    def last(row: dict[str, Any]) -> float:
        return fmean(row["losses"][-LAST:])

    seeds = sorted(theirs.keys() & ours.keys())
    off = {
        seed: [b - a for a, b in zip(theirs[seed]["losses"], ours[seed]["losses"], strict=True)]
        for seed in seeds
    }
    return {
        "same_order": all(theirs[seed]["order"] == ours[seed]["order"] for seed in seeds),
        "adapters": {seed: [theirs[seed]["adapter"], ours[seed]["adapter"]] for seed in seeds},
        "first_step": {seed: round(off[seed][0], 4) for seed in seeds},
        "largest_of_a_step": {seed: round(max(map(abs, off[seed])), 4) for seed in seeds},
        "largest_smoothed": {seed: round(max(map(abs, smooth(off[seed]))), 4) for seed in seeds},
        "mean": {seed: round(fmean(off[seed]), 5) for seed in seeds},
        f"last_{LAST}": {seed: [round(last(theirs[seed]), 4), round(last(ours[seed]), 4)] for seed in seeds},
        f"last_{LAST}_largest": round(max(abs(last(ours[each]) - last(theirs[each])) for each in seeds), 5),
        f"last_{LAST}_seed_noise": round(spread([last(row) for row in theirs.values()]), 5),
        "eval": {seed: [theirs[seed]["eval_loss"], ours[seed]["eval_loss"]] for seed in seeds},
        "eval_largest": max(
            round(abs(ours[each]["eval_loss"] - theirs[each]["eval_loss"]), 5) for each in seeds
        ),
        "eval_seed_noise": round(spread([row["eval_loss"] for row in theirs.values()]), 5),
    }


def summarise(curves: dict[str, dict[int, dict[str, Any]]], steps: int) -> None:
    """Print and keep the numbers of the comparison."""
    theirs = curves["trl"]
    any_row = next(iter(theirs.values()))
    for way in [each for each in curves if each != "trl"]:
        found = json.loads(json.dumps(compared(theirs, curves[way])))
        key = {"summary_of": way, "steps": steps, "device": any_row["device"], "model": any_row["model"]}
        print(json.dumps(found, indent=1))
        if not any(row.items() >= (key | found).items() for row in rows_of(NAME)):
            append(NAME, key | found | conditions())


def draw(curves: dict[str, dict[int, dict[str, Any]]], path: Path) -> None:
    """All curves, and below them the difference between ways beside that between seeds."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    smoothed = {
        way: {seed: smooth(row["losses"]) for seed, row in sorted(rows.items())}
        for way, rows in curves.items()
    }
    first_step = next(iter(curves["trl"].values()))["steps"] - len(next(iter(smoothed["trl"].values()))) + 1
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True, height_ratios=(2, 1))
    for way, rows in smoothed.items():
        for (seed, values), line in zip(rows.items(), itertools.cycle(LINES)):
            steps = range(first_step, first_step + len(values))
            # Where curves are the same, the broader one shows below the other.
            width, opaque = (4.0, 0.5) if way == "trl" else (1.2, 1.0)
            above.plot(
                steps, values, line, color=COLOURS[way], lw=width, alpha=opaque, label=f"{way}, seed {seed}"
            )
    means = {way: [fmean(at) for at in zip(*rows.values(), strict=True)] for way, rows in smoothed.items()}
    noise = [spread(list(at)) for at in zip(*smoothed["trl"].values(), strict=True)]
    below.fill_between(
        steps, [-each for each in noise], noise, color="0.88", label="largest between two seeds of trl, ±"
    )
    for way in [each for each in means if each != "trl"]:
        off = [ours - theirs for ours, theirs in zip(means[way], means["trl"], strict=True)]
        below.plot(steps, off, color=COLOURS[way], lw=1.2, label=f"{way} − trl, mean over seeds")
    any_row = next(iter(curves["trl"].values()))
    above.set_title(
        f"{any_row['model']}, SFT with LoRA on {any_row['data']}, {any_row['device']}", fontsize=10
    )
    above.set_ylabel("training loss" + (f", mean of {SMOOTHED} steps" if any_row["steps"] > SMOOTHED else ""))
    below.set_ylabel("difference of the loss")
    below.set_xlabel(f"optimizer step ({ROWS_A_STEP} rows)")
    for panel in (above, below):
        panel.grid(color="0.93")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=8, frameon=False, ncols=len(curves))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder of the model")
    parser.add_argument("--data", help="JSON file of Alpaca rows")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", default="42,1,2")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--rows", type=int, help="train on so many rows at most")
    parser.add_argument("--micro-batch", type=int, default=4, help="rows at a time with TRL alone")
    parser.add_argument("--heldout", type=int, default=200)
    parser.add_argument("--budget-s", type=float, default=500, help="start no training after so many seconds")
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    if options.plot:
        curves = curves_of(options.steps)
        if "trl" not in curves or len(curves) == 1:
            parser.error(f"there are no rows of trl and another way with {options.steps} steps to compare")
        summarise(curves, options.steps)
        draw(curves, RESULTS_PATH / f"{NAME}.svg")
    elif options.model and options.data:
        measure(options)
    else:
        parser.error("--model and --data are needed to train")


if __name__ == "__main__":
    main()
