"""The data of the GRPO demo: which device handles a household request. Nobody shows the model an answer.

The requests are those of the SFT demo; those of the held-out rows have wordings, or combinations of values,
that training never shows. An answer is right when it names the right device and no other, however it is put.
`python -m tunesmith.demo.sorting` rewrites the two files in `data/`, byte for byte the same each time.
"""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.demo.household import DATA_PATH
from tunesmith.demo.preferences import calls_of

DEVICES = ("light", "blinds", "heating", "timer", "shopping", "music")
SYSTEM_PROMPT = "Sort requests."
QUESTION = (
    "{request}\n\nIs this about light, blinds, heating, timer, shopping or music? Answer with one word."
)
TRAIN_PATH, HELDOUT_PATH = DATA_PATH / "sorting_train.jsonl", DATA_PATH / "sorting_heldout.jsonl"


def device_named(answer: str) -> str | None:
    """The one device that an answer names, in any form; None where it names none, or several."""
    words = set(re.findall(r"[a-z]+", answer.lower()))
    named = {device for device in DEVICES if words & {device, device.rstrip("s"), f"{device}s"}}
    return named.pop() if len(named) == 1 else None


def right_device(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
    """The demo's reward: 1 for an answer that names the right device and no other, else 0."""
    said = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
    return [float(device_named(text) == right) for text, right in zip(said, answer, strict=True)]


def build() -> dict[Path, list[dict[str, Any]]]:
    """The rows of both files."""
    rng = random.Random(5)
    made = {}
    for path, source in ((TRAIN_PATH, "train.jsonl"), (HELDOUT_PATH, "heldout.jsonl")):
        rows = [
            {
                "prompt": [
                    {"role": "system", "content": SYSTEM_PROMPT},
                    {"role": "user", "content": QUESTION.format(request=request)},
                ],
                "answer": call["tool"],
            }
            for request, call in calls_of(DATA_PATH / source)
        ]
        rng.shuffle(rows)
        made[path] = rows
    return made


if __name__ == "__main__":
    for path, rows in build().items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
