"""Tokens a second of a training on one GPU: Tunesmith and TRL alone, same rows, same rows a step.

    python benchmarks/speed.py [--shapes 0.5b-lora,dpo-0.5b-full,grpo-0.5b-lora] [--budget-s 500] [--toy]
    python benchmarks/speed.py --profile --ways tunesmith

Models have the sizes of Qwen2.5 and random weights; rows have log-normal lengths (median 400, at most 1,024
tokens). Every step has 16 rows; tokens a second are rows a second times the mean tokens of a row, so that no
way gains by the rows it happened to draw. Each way trains in turn, in one process on one machine; a row with
medians after warm-up is appended to results/speed.jsonl as soon as it is measured, and rows that are there
for this device are skipped.

With --profile the kernels and operators of three steps go to results/speed_profile_SHAPE_WAY.txt; the times
of such a run hold the profiler's own, and no row is appended.

- trl: TRL's trainer with its defaults, batch 4 with 4 accumulated, as in the example scripts.
- padded: Tunesmith with the attention that the model had, batches padded.
- eager: Tunesmith without captured layers.
- tunesmith: as `tunesmith train` does it; Liger's kernels where they are installed.
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
NUM_WARM = 2
# The default of TRL, and of Tunesmith in runs of 100 steps or more: to log is to wait for the device.
LOGGED = 10
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


def tokens_of(path: Path, method: str, answer: int) -> float:
    """Mean tokens of a row that are read in training, both texts of a pair."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    words = {key: statistics.fmean(len(row[key].split()) for row in rows) for key in rows[0]}
    if method == "dpo":
        return 2 * (words["prompt"] + 1) + words["chosen"] + words["rejected"]
    return words["prompt"] + answer if method == "grpo" else words["text"] + 1


def matmul_rate() -> float:
    """TFLOP/s of a bf16 product of two matrices of 8,192 x 8,192: the median of 20."""
    import torch

    size, clock = 8192, Clock("cuda")
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(24):
        a @ b
        clock.tick()
    return 2 * size**3 / statistics.median(clock.steps()[3:]) / 1e12


def fresh_model(folder: Path, dtype: Any, device: str) -> Any:
    """The model with random weights, made where it is needed."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    model.name_or_path = model.config._name_or_path = str(folder)
    return model


class Clock:
    """Ends of steps, as the device sees them: nothing waits for it meanwhile."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._ends: list[Any] = []

    def __len__(self) -> int:
        return len(self._ends)

    def tick(self) -> None:
        """All work of a step is given to the device."""
        if self._device == "cuda":
            import torch

            self._ends.append(torch.cuda.Event(enable_timing=True))
            self._ends[-1].record()
        else:
            self._ends.append(time.perf_counter())

    def steps(self) -> list[float]:
        """Seconds of each step but the first."""
        if self._device == "cuda":
            import torch

            torch.cuda.synchronize()
            return [a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(self._ends)]
        return [b - a for a, b in itertools.pairwise(self._ends)]


def measured(steps: list[float], first: int) -> dict[str, Any]:
    """The median over the steps after step `first`; `steps` holds all but step 1."""
    return {"num_steps": len(steps[first - 1 :]), "step_s": round(statistics.median(steps[first - 1 :]), 4)}


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

    clock = Clock(device)

    class Ticks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.tick()

    name = {"sft": "SFT", "dpo": "DPO", "grpo": "GRPO"}[method]
    own = (
        {"num_generations": GROUP, "max_completion_length": answer}
        if method == "grpo"
        else {"max_length": 1024}
    )
    arguments = getattr(trl, f"{name}Config")(
        output_dir=tempfile.mkdtemp(), max_steps=num_steps + NUM_WARM, per_device_train_batch_size=4,
        gradient_accumulation_steps=ROWS_A_STEP // 4, logging_steps=LOGGED, report_to="none",
        save_strategy="no", disable_tqdm=True, seed=42, learning_rate=1e-5, **own,
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
        peft_config=lora if tuning == "lora" else None, callbacks=[Ticks()], **parts,
    )  # fmt: skip
    trainer.train()
    return measured(clock.steps(), NUM_WARM)


def gaps_between(kernels: list[Any]) -> list[tuple[float, str]]:
    """Where the device waited, longest first: milliseconds in all, how often, and the kernels around it."""
    kernels = sorted(kernels, key=lambda each: each.time_range.start)
    waits: dict[str, list[float]] = {}
    end, last = kernels[0].time_range.start, ""
    for each in kernels:
        if (idle := each.time_range.start - end) > 5:
            waits.setdefault(f"from {last[:60]} to {each.name[:60]}", []).append(idle / 1000)
        if each.time_range.end > end:
            end, last = each.time_range.end, each.name
    told = [(sum(times), f"{len(times):6d} x  {where}") for where, times in waits.items()]
    return sorted(told, reverse=True)


def profile_of(profiler: Any, seconds: float) -> str:
    """What four steps did, the last three of which took so long: the device, then the CPU."""
    from torch.autograd import DeviceType

    # Ranges that torch names are no kernels, though they lie on the device.
    kernels = [
        each
        for each in profiler.events()
        if each.device_type == DeviceType.CUDA and not getattr(each, "is_user_annotation", False)
    ]
    spent: dict[str, list[float]] = {}
    for each in kernels:
        spent.setdefault(each.name[:100], []).append(each.time_range.elapsed_us() / 1000)
    busy = sum(map(sum, spent.values()))
    lines = [
        f"{seconds / 3 * 1000:.1f} ms a step; {len(kernels) / 4:.0f} kernels and copies in {busy / 4:.1f} ms"
    ]
    for name, took in sorted(spent.items(), key=lambda item: -sum(item[1]))[:40]:
        lines.append(f"{sum(took):9.2f} ms {len(took):6d} x  {name}")
    gaps = gaps_between(kernels)
    lines.append(f"idle in gaps of more than 5 us: {sum(idle for idle, _ in gaps) / 4:.1f} ms a step")
    lines += [f"{idle:9.2f} ms {where}" for idle, where in gaps[:30]]
    table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40)
    return "\n".join([*lines, table])


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
    from tunesmith.train import attention, training
    from tunesmith.train.events import Progress
    from tunesmith.train.setup import set_up

    # Most lengths of a row have come twice by then, and are captured.
    first = NUM_WARM if way != "tunesmith" else 6 if method == "grpo" else 40
    flags = {
        "method": method, "model": str(folder), "dataset": str(rows), "tuning": tuning, "max_length": 1024,
        "max_steps": num_steps + first, "global_batch_size": ROWS_A_STEP, "logging_steps": LOGGED,
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
    may_capture = way == "tunesmith" and setup.choice.may_capture
    choice = dataclasses.replace(setup.choice, may_capture=may_capture)
    setup = dataclasses.replace(setup, choice=choice)
    training.WORTH_CAPTURING = 0
    attention.leave_out_cudnn()
    clock = Clock(device)
    profiler = torch.profiler.profile()

    def listen(event: Any) -> None:
        if isinstance(event, Progress) and event.step > len(clock):
            clock.tick()
            if profiled and event.step == config.max_steps - 5:
                profiler.start()
            if profiled and event.step == config.max_steps - 1:
                profiler.stop()
                profiled.write_text(profile_of(profiler, sum(clock.steps()[-3:])))

    dtype = torch.float32 if tuning == "full" or device == "cpu" else torch.bfloat16
    run = RunFolder.create(Path(tempfile.mkdtemp()) / "run", setup.record())
    if (method, tuning) == ("dpo", "full"):  # TRL loads the reference from the folder
        fresh_model(folder, dtype, device).save_pretrained(folder)
    training.train(setup, run, listen, model=fresh_model(folder, dtype, device))
    steps = clock.steps()
    found = measured(steps, first)
    if may_capture:
        found["capturing_s"] = round(sum(steps[1:first]) - (first - 1) * found["step_s"], 1)
    return found | {"batch": choice.per_device_train_batch_size, "attention": choice.attention,
                    "checkpointing": choice.gradient_checkpointing, "captured": may_capture}  # fmt: skip


def run(shape: str, way: str, device: str, toy: bool, profiled: Path | None) -> dict[str, Any]:
    """One row."""
    import torch

    *methods, size, tuning = shape.split("-")
    method = methods[0] if methods else "sft"
    where = Path(tempfile.mkdtemp())
    # Steps of GRPO with TRL alone take a quarter of a minute each.
    grpo, alone = method == "grpo", way == "trl"
    measured_steps = (2 if alone else 6) if grpo else (6 if alone else 30)
    num_steps, answer = (6, 4) if toy else (measured_steps, ANSWER)
    folder = write_model(where / "model", "toy" if toy else size)
    rows = write_rows(where / "rows.jsonl", method, ROWS_A_STEP * 96, 0.05 if toy else 1.0)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with contextlib.redirect_stdout(None):
        if way == "trl":
            found = run_trl(method, tuning, folder, rows, device, num_steps, answer)
        else:
            found = run_tunesmith(method, tuning, folder, rows, device, num_steps, answer, way, profiled)
    found["rows_per_s"] = round(ROWS_A_STEP / found["step_s"], 2)
    found["tokens_per_s"] = round(ROWS_A_STEP / found["step_s"] * tokens_of(rows, method, answer))
    if device == "cuda":
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        found["reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 1)
        found["matmul_tflops"] = round(matmul_rate())
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
    # TRL first: Tunesmith leaves kernels and switches behind in the process.
    ways = sorted(options.ways.split(","), key=lambda way: way != "trl")
    for way in ways:
        for shape in options.shapes.split(","):
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
