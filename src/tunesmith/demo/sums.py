"""The data of the GRPO demo: sums of two numbers. Nobody shows the model an answer; a reward checks it.

Of every two numbers both orders are either trained or held out. An answer is right when it names the sum and
no other number but the two that it was asked about, however it is put: a model that only learns to answer
briefly gains nothing. `python -m tunesmith.demo.sums` rewrites the two files in `data/`, byte for byte the
same each time.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.demo.household import DATA_PATH
from tunesmith.rewards.completions import text_of

SEED = 3
SYSTEM_PROMPT = "You add numbers."
SMALLEST, LARGEST = 2, 19
NUM_HELDOUT = 64
TRAIN_PATH, HELDOUT_PATH = DATA_PATH / "sums_train.jsonl", DATA_PATH / "sums_heldout.jsonl"


def is_right(answer: str, one: int, other: int) -> bool:
    """Whether an answer names the sum of two numbers, and no number beside the three."""
    named = {int(digits) for digits in re.findall(r"\d{1,9}", answer)}
    return one + other in named and named <= {one, other, one + other}


def right_sum(completions: Sequence[Any], one: Sequence[int], other: Sequence[int], **_: Any) -> list[float]:
    """The demo's reward: 1 for a right answer, else 0."""
    said = map(text_of, completions)
    return [float(is_right(*asked)) for asked in zip(said, one, other, strict=True)]


def baselines() -> dict[str, float]:
    """What guessing is worth on the held-out rows: a sum at random, and the one that is right most often."""
    rows = [json.loads(line) for line in HELDOUT_PATH.read_text(encoding="utf-8").splitlines()]
    possible = 2 * (LARGEST - SMALLEST) + 1
    most = Counter(row["answer"] for row in rows).most_common(1)[0][1]
    return {"a sum at random": round(1 / possible, 4), "always the commonest": round(most / len(rows), 4)}


def build() -> dict[Path, list[dict[str, Any]]]:
    """The rows of both files."""
    rng = random.Random(SEED)
    numbers = range(SMALLEST, LARGEST + 1)
    pairs = [(one, other) for one in numbers for other in numbers if one <= other]
    rng.shuffle(pairs)
    heldout, trained = pairs[:NUM_HELDOUT], pairs[NUM_HELDOUT:]
    both_orders = [order for one, other in trained for order in dict.fromkeys(((one, other), (other, one)))]
    rng.shuffle(both_orders)
    return {TRAIN_PATH: list(map(_row, both_orders)), HELDOUT_PATH: list(map(_row, heldout))}


def _row(pair: tuple[int, int]) -> dict[str, Any]:
    one, other = pair
    prompt = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": f"{one} + {other} = ?"},
    ]
    return {"prompt": prompt, "one": one, "other": other, "answer": str(one + other)}


if __name__ == "__main__":
    for path, rows in build().items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
