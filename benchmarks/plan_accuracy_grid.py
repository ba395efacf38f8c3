"""The configurations of plan_accuracy.py, and the texts that they are trained on."""

from __future__ import annotations

import json
import random
import statistics
import zlib
from dataclasses import dataclass
from pathlib import Path

import speed

from tunesmith.plan.workload import Lengths

# SmolLM2-135M and Llama-3.2-1B, from their published config.json.
speed.SIZES["135m"] = (576, 1536, 30, 9, 3, 49_152, True)
speed.SIZES["1b"] = (2048, 8192, 16, 32, 8, 128_256, True)
NUM_STEPS, NUM_WARM = 8, 3
JUDGED_STEPS = 20
GROUP, ANSWER = 8, 64
NUM_ROWS = 256
RANK = 16


@dataclass(frozen=True)
class Row:
    """A configuration of the grid. `scale` stretches speed.py's lengths (median 400 tokens, at most 1,024);
    with `length` all texts have so many tokens."""

    size: str
    tuning: str
    micro_batch: int
    accumulation: int = 1
    method: str = "sft"
    scale: float = 1.0
    length: int = 0
    attention: str = "varlen"
    checkpointing: bool = False
    precision: str = "bf16"
    captured: bool = False
    fused: bool = True
    reference: str = "none"

    @property
    def name(self) -> str:
        said = [self.method, self.size, self.tuning, f"{self.micro_batch}x{self.accumulation}"]
        said += [f"{self.length}t"] if self.length else [f"x{self.scale:g}"]
        said += [self.attention] if self.attention != "varlen" else []
        said += [self.precision] if self.precision != "bf16" else []
        said += [f"ref-{self.reference}"] if self.reference != "none" else []
        flags = {"checkpointing": self.checkpointing, "captured": self.captured, "unfused": not self.fused}
        return "-".join(said + [flag for flag, is_on in flags.items() if is_on])

    @property
    def calibrates(self) -> bool:
        """Whether it is of the half that constants may be fitted to."""
        return zlib.crc32(self.name.encode()) % 2 == 0


def grid() -> list[Row]:
    """The configurations, cheapest models first."""
    rows = []
    for size in ("0.5b", "1b", "1.5b"):
        for tuning in ("lora", "full"):
            large = 16 if size == "0.5b" else 8
            rows += [
                Row(size, tuning, large),
                Row(size, tuning, 4, 2, scale=0.5),
                Row(size, tuning, large, length=400, captured=True),
                Row(size, tuning, 8, scale=0.5, attention="padded", fused=False),
                Row(size, tuning, large, 2, checkpointing=True),
            ]
    rows += [
        Row("0.5b", "lora", 4, 4, length=200, captured=True),
        Row("0.5b", "lora", 32, length=400, captured=True),
        Row("0.5b", "lora", 4, scale=3.0),
        Row("1.5b", "full", 2, scale=3.0),
        Row("0.5b", "lora", 8, precision="fp32", scale=0.5, attention="blocks", fused=False),
        Row("1b", "full", 4, precision="fp32", scale=0.5, attention="padded", fused=False),
        Row("0.5b", "full", 8, method="dpo", reference="model"),
        Row("0.5b", "full", 8, method="dpo", reference="model", length=400, captured=True),
        Row("1.5b", "lora", 8, method="dpo", reference="adapter"),
        Row("1b", "lora", 4, 2, method="dpo", reference="adapter", attention="padded", fused=False),
        Row("1.5b", "full", 4, method="dpo", reference="precomputed", scale=0.5),
        Row("0.5b", "lora", 16, method="grpo", captured=True),
        Row("0.5b", "full", 16, method="grpo", captured=True),
        Row("1b", "lora", 16, method="grpo", captured=True, length=256),
        Row("1.5b", "lora", 16, 2, method="grpo", captured=True),
        Row("7b", "lora", 4, 2),
        Row("7b", "lora", 4, length=450, captured=True),
        Row("7b", "lora", 2, 4, scale=0.5, attention="padded", fused=False),
        Row("7b", "lora", 16, checkpointing=True),
        Row("7b", "lora", 4, method="dpo", reference="adapter", scale=0.5),
        # At the edge of 80 GB, and beyond it.
        Row("7b", "lora", 20),
        Row("7b", "lora", 32),
        Row("1.5b", "full", 48),
        Row("1b", "full", 64, length=600),
    ]
    return rows


def probes() -> list[Row]:
    """Configurations of each kind, to probe."""
    wanted = {
        "sft-0.5b-lora-16x1-x1", "sft-0.5b-lora-16x1-400t-captured", "sft-0.5b-full-16x1-x1",
        "sft-0.5b-lora-16x2-x1-checkpointing", "sft-0.5b-full-8x1-x0.5-padded-unfused",
        "sft-1.5b-lora-8x1-x1", "sft-1.5b-full-4x2-x0.5", "sft-1.5b-full-8x1-400t-captured",
        "dpo-0.5b-full-8x1-x1-ref-model", "dpo-1.5b-lora-8x1-x1-ref-adapter",
        "grpo-0.5b-lora-16x1-x1-captured", "grpo-1b-lora-16x1-256t-captured", "sft-7b-lora-4x2-x1",
        "sft-7b-lora-4x1-450t-captured",
    }  # fmt: skip
    return [row for row in grid() if row.name in wanted] + [
        Row("0.5b", "lora", 16, captured=True), Row("0.5b", "full", 16, captured=True),
    ]  # fmt: skip


def cpu_grid() -> list[Row]:
    """Configurations of SmolLM2-135M's sizes that a CPU trains in seconds a step."""
    return [
        Row("135m", tuning, micro_batch, scale=scale, attention=attention, fused=False, precision=precision,
            checkpointing=checkpointing)
        for tuning in ("lora", "full")
        for precision in ("bf16", "fp32")
        for micro_batch, scale, attention, checkpointing in (
            (4, 0.25, "blocks", False), (8, 0.12, "padded", False), (2, 0.5, "blocks", True),
        )
    ]  # fmt: skip


def toy_grid() -> list[Row]:
    """A few of each kind, of a model that a CPU trains in seconds."""
    return [
        Row("toy", "lora", 4, 2, scale=0.05, attention="blocks", fused=False, precision="fp32"),
        Row("toy", "full", 4, scale=0.05, attention="padded", fused=False, precision="fp32",
            checkpointing=True),
        Row("toy", "lora", 2, method="dpo", reference="adapter", scale=0.05, attention="blocks", fused=False,
            precision="fp32"),
        Row("toy", "lora", 8, method="grpo", scale=0.05, attention="blocks", fused=False, precision="fp32"),
    ]  # fmt: skip


def write_texts(path: Path, row: Row) -> Path:
    """Rows as speed.py has them, or all of one length."""
    if not row.length:
        return speed.write_rows(path, row.method, NUM_ROWS, row.scale)
    draw = random.Random(7)

    def text(size: float) -> str:
        return " ".join(f"w{draw.randrange(speed.NUM_WORDS)}" for _ in range(max(2, int(size))))

    with path.open("w") as file:
        for _ in range(NUM_ROWS):
            made = {"text": text(row.length - 1)}
            if row.method == "grpo":
                made = {"prompt": text(row.length)}
            if row.method == "dpo":
                half = text(row.length / 2)
                made = {"prompt": half, "chosen": text(row.length / 2), "rejected": text(row.length / 2)}
            file.write(json.dumps(made) + "\n")
    return path


def lengths_of(path: Path, row: Row, answer: int) -> tuple[Lengths, float]:
    """Of rows as they are read in training, and the share of their tokens that is learned."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    counted = [{name: len(text.split()) for name, text in each.items()} for each in rows]
    if row.method == "dpo":
        answers = [each["chosen"] + each["rejected"] + 2 for each in counted]
        tokens = [2 * each["prompt"] + told for each, told in zip(counted, answers, strict=True)]
        return Lengths.of(tokens), sum(answers) / sum(tokens)
    if row.method == "grpo":
        tokens = [each["prompt"] + answer for each in counted]
        return Lengths.of(tokens), answer / statistics.fmean(tokens)
    return Lengths.of([each["text"] + 1 for each in counted]), 1.0
