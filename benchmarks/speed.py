"""Tokens a second of a training on one GPU: Tunesmith and TRL alone, same rows, same rows a step.

    python benchmarks/speed.py [--shapes 0.5b-lora,dpo-0.5b-full,grpo-0.5b-lora] [--budget-s 500] [--toy]
    python benchmarks/speed.py --profile --ways tunesmith

Models have the sizes of Qwen2.5 and random weights; rows have log-normal lengths (median 400, at most 1,024
tokens). Each way trains in turn, in one process on one machine; a row with medians after warm-up is appended
to results/speed.jsonl as soon as it is measured, and rows that are there for this device are skipped.

With --profile the kernels and operators of three steps go to results/speed_profile_SHAPE_WAY.txt; the times
of such a run hold the profiler's own, and no row is appended.

- trl: TRL's trainer with its defaults, batch 4 with 4 accumulated, as in the example scripts.
- padded: Tunesmith with the attention that the model had, batches padded. eager: Tunesmith without compiling.
- tunesmith: as `tunesmith train` does it in a run long enough for compiling.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import itertools
import json
import random
import statistics
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from record import RESULTS_PATH, append, conditions, rows_of

# hidden, feed-forward, layers, heads, key heads, vocabulary, tied embeddings.
SIZES = {
    "0.5b": (896, 4864, 24, 14, 2, 151_936, True),
    "1.5b": (1536, 8960, 28, 12, 2, 151_936, True),
    "7b": (3584, 18_944, 28, 28, 4, 152_064, False),
    "toy": (64, 128, 2, 4, 2, 1_200, True),
}
WAYS = ("trl", "padded", "eager", "tunesmith")
ROWS_A_STEP = 16
NUM_WARM = 3
NUM_WORDS = 1000
# Of GRPO: answers to a prompt, and the tokens of each (random weights end none before).
GROUP, ANSWER = 8, 256


def write_model(folder: Path, size: str) -> Path:
    """A configuration of that size and a tokenizer that makes one token of each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    hidden, wide, layers, heads, key_heads, vocab, tied = SIZES[size]
    # A llama: of a qwen2 AutoTokenizer would make its own tokenizer. The shapes are the same.
    LlamaConfig(
        hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=key_heads, vocab_size=vocab, tie_word_embeddings=tied, rope_theta=1e6,
        max_position_embeddings=4096, eos_token_id=1, pad_token_id=0, bos_token_id=None,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    vocabulary = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i + 2 for i in range(NUM_WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, method: str, number: int, scale: float) -> Path:
    """Rows of words; of a pair the prompt is the larger part."""
    draw = random.Random(7)

    def text(size: float) -> str:
        return " ".join(f"w{draw.randrange(NUM_WORDS)}" for _ in range(max(2, int(size * scale))))

    with path.open("w") as file:
        for _ in range(number):
            size = min(1023.0, draw.lognormvariate(5.99, 0.6))
            row = {"text": text(size)}
            if method == "grpo":
                row = {"prompt": text(min(size, 256))}
            if method == "dpo":
                row = {"prompt": text(size * 0.5), "chosen": text(size * 0.35), "rejected": text(size * 0.35)}
            file.write(json.dumps(row) + "\n")
    return path


def fresh_model(folder: Path, dtype: Any, device: str) -> Any:
    """The model with random weights, made where it is needed."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    model.name_or_path = model.config._name_or_path = str(folder)
    return model


def sync(device: str) -> float:
    """Now, when the device has done all that it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measured(times: list[float], tokens: list[float], first: int) -> dict[str, Any]:
    """Medians over the steps from `first` on; `times` and `tokens` are of the ends of steps."""
    steps = [b - a for a, b in itertools.pairwise(times)][first:]
    told = [b - a for a, b in itertools.pairwise(tokens)][first:]
    return {
        "num_steps": len(steps),
        "step_s": round(statistics.median(steps), 4),
        "tokens_per_s": round(sum(told) / sum(steps)),
        "rows_per_s": round(ROWS_A_STEP / statistics.median(steps), 2),
        "tokens_a_step": round(statistics.mean(told)),
    }


def words_that_differ(completions: list[str], **_: Any) -> list[float]:
    """A reward that differs from answer to answer."""
    return [len(set(each.split())) / 100 for each in completions]


def run_trl(
    method: str, tuning: str, folder: Path, rows: Path, device: str, num_steps: int, answer: int
) -> dict[str, Any]:
    """TRL alone."""
    import torch
    import trl
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            times.append(sync(device))

    name = {"sft": "SFT", "dpo": "DPO", "grpo": "GRPO"}[method]
    own = (
        {"num_generations": GROUP, "max_completion_length": answer}
        if method == "grpo"
        else {"max_length": 1024}
    )
    arguments = getattr(trl, f"{name}Config")(
        output_dir=tempfile.mkdtemp(), max_steps=num_steps, per_device_train_batch_size=4,
        gradient_accumulation_steps=ROWS_A_STEP // 4, logging_steps=1, report_to="none", save_strategy="no",
        disable_tqdm=True, seed=42, learning_rate=1e-5, **own,
        **({"use_cpu": True, "bf16": False} if device == "cpu" else {}),
    )  # fmt: skip
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    parts: dict[str, Any] = {"reward_funcs": words_that_differ} if method == "grpo" else {}
    if (method, tuning) == ("dpo", "full"):  # TRL would load it from the model's folder, which has no weights
        parts["ref_model"] = fresh_model(folder, torch.float32, device)
    trainer = getattr(trl, f"{name}Trainer")(
        model=fresh_model(folder, torch.float32, device), args=arguments,
        train_dataset=load_dataset("json", data_files=str(rows), split="train"),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=lora if tuning == "lora" else None, callbacks=[Clock()], **parts,
    )  # fmt: skip
    trainer.train()
    tokens = [row["num_tokens"] for row in trainer.state.log_history if "num_tokens" in row]
    return measured(times, tokens, NUM_WARM)


def run_tunesmith(
    method: str,
    tuning: str,
    folder: Path,
    rows: Path,
    device: str,
    num_steps: int,
    answer: int,
    way: str,
    profiled: Path | None,
) -> dict[str, Any]:
    """`tunesmith train`, its steps timed from outside."""
    import torch

    from tunesmith.config.loading import load_config
    from tunesmith.runs.folder import RunFolder
    from tunesmith.train import compiled
    from tunesmith.train.events import Progress
    from tunesmith.train.setup import set_up
    from tunesmith.train.training import train

    watched = compiled.NUM_WARM + compiled.NUM_WATCHED
    first = watched + NUM_WARM if way == "tunesmith" else NUM_WARM
    flags = {
        "method": method, "model": str(folder), "dataset": str(rows), "tuning": tuning, "max_length": 1024,
        "max_steps": num_steps + first - NUM_WARM, "global_batch_size": ROWS_A_STEP, "logging_steps": 1,
        "seed": 42, "learning_rate": 1e-5, "device": device, "save_steps": 10_000, "allow": "D203,D208",
    }  # fmt: skip
    own = ["trl.model_init_kwargs={attn_implementation: sdpa}"] if way == "padded" else []
    if method == "grpo":
        flags |= {"num_generations": GROUP, "max_completion_length": answer,
                  "rewards": f"{__file__}:words_that_differ"}  # fmt: skip
    if method == "dpo":  # so that a step's time holds its reference passes
        own.append("trl.precompute_ref_log_probs=false")
    config = load_config(flags=flags, assignments=["trl.report_to=none", *own], environ={}).config
    setup = set_up(config, lambda event: None)
    may_compile = way == "tunesmith" and setup.choice.may_compile
    setup = dataclasses.replace(setup, choice=dataclasses.replace(setup.choice, may_compile=may_compile))
    # Here the pace decides nothing: a row says what compiling costs and gives.
    compiled.COST_S = 0.0
    times: list[float] = []
    profiler = torch.profiler.profile()

    def listen(event: Any) -> None:
        if isinstance(event, Progress) and event.step > len(times):
            times.append(sync(device))
            if profiled and event.step == config.max_steps - 4:
                profiler.start()
            if profiled and event.step == config.max_steps - 1:
                profiler.stop()
                by = "device_time_total" if device == "cuda" else "cpu_time_total"
                profiled.write_text(profiler.key_averages().table(sort_by=by, row_limit=60))

    dtype = torch.float32 if tuning == "full" or device == "cpu" else torch.bfloat16
    run = RunFolder.create(Path(tempfile.mkdtemp()) / "run", setup.record())
    if (method, tuning) == ("dpo", "full"):  # TRL loads the reference from the folder
        fresh_model(folder, dtype, device).save_pretrained(folder)
    train(setup, run, listen, model=fresh_model(folder, dtype, device))
    tokens = [row["num_tokens"] for row in run.read_metrics() if "loss" in row]
    found = measured(times, tokens, first)
    steps = [b - a for a, b in itertools.pairwise(times)]
    if may_compile:
        extra = sum(steps[watched - 1 : first]) - (first - watched + 1) * found["step_s"]
        found["compile_s"] = round(extra, 1)
    choice = setup.choice
    return found | {"batch": choice.per_device_train_batch_size, "attention": choice.attention,
                    "checkpointing": choice.gradient_checkpointing, "compiled": may_compile}  # fmt: skip


def run(shape: str, way: str, device: str, toy: bool, profiled: Path | None) -> dict[str, Any]:
    """One row."""
    import torch

    *methods, size, tuning = shape.split("-")
    method = methods[0] if methods else "sft"
    where = Path(tempfile.mkdtemp())
    num_steps, answer = (8, 4) if toy else (8, ANSWER) if method == "grpo" else (14, ANSWER)
    folder = write_model(where / "model", "toy" if toy else size)
    rows = write_rows(where / "rows.jsonl", method, ROWS_A_STEP * 32, 0.05 if toy else 1.0)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.redirect_stdout(None):
        if way == "trl":
            found = run_trl(method, tuning, folder, rows, device, num_steps, answer)
        else:
            found = run_tunesmith(method, tuning, folder, rows, device, num_steps, answer, way, profiled)
    if device == "cuda":
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="0.5b-lora,1.5b-lora,0.5b-full,dpo-0.5b-full,7b-lora")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--budget-s", type=float, default=500)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    done = {(row["shape"], row["way"], row["device"]) for row in rows_of("speed")}
    began = time.monotonic()
    for shape in options.shapes.split(","):
        for way in options.ways.split(","):
            if (shape, way, name) in done or time.monotonic() - began > options.budget_s:
                continue
            started = time.monotonic()
            try:
                table = RESULTS_PATH / f"speed_profile_{shape}_{way}.txt" if options.profile else None
                found = run(shape, way, device, options.toy, table)
            except Exception as error:  # one way that fails leaves the others to be measured
                traceback.print_exc()
                found = {"failed": f"{type(error).__name__}: {error}"[:300]}
            took = round(time.monotonic() - started, 1)
            key = {"shape": shape, "way": way, "device": name, "toy": options.toy}
            row = key | found | {"took_s": took} | conditions()
            if options.profile:
                print(row)
            else:
                append("speed", row)
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
