"""The data of the DPO demo: two answers to each household request, and what counts as the preferred kind.

The preferred answer says what was done; the other one apologises, in the words that SmolLM2-135M-Instruct
itself uses when it is asked such things. Both are put together so that they are equally long, to a character,
in each pair: length can't tell them apart. `python -m tunesmith.demo.preferences` rewrites the two files in
`data/`, byte for byte the same each time.
"""

import json
import random
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from tunesmith.demo.household import DATA_PATH

SEED = 11
SYSTEM_PROMPT = "You run a smart home."
NUM_TRAIN, NUM_HELDOUT = 320, 72
TRAIN_PATH, HELDOUT_PATH = DATA_PATH / "preferences_train.jsonl", DATA_PATH / "preferences_heldout.jsonl"

# What was done, by tool, and what the assistant says that it can't do.
DONE = {
    "light": "the light in the {room} is {state}",
    "blinds": "the blinds in the {room} are {state}",
    "heating": "the {room} is set to {celsius} degrees",
    "timer": "the timer for the {for} is set to {minutes} minutes",
    "shopping": "{item} is on the list, {count} of it",
    "music": "{genre} is playing in the {room}",
}
REFUSED = {
    "light": "control the light in the {room}",
    "blinds": "move the blinds in the {room}",
    "heating": "heat the {room}",
    "timer": "set a timer for the {for}",
    "shopping": "buy {item}",
    "music": "play {genre} in the {room}",
}
OPENINGS = ("Done, ", "Done: ", "Done, and ")
CLOSINGS = (
    ".", " now.", ". Enjoy it.", ". Just tell me when that should change.", ", as you asked.",
    " from now on.", ". Anything else you need?", ". It stays like that until you say otherwise.",
    ", just as you wanted it.", ". Let me know if it should be different.",
    ". I am glad to help with whatever comes next.",
)  # fmt: skip
APOLOGIES = (
    "I'm sorry, but I can't ", "I'm sorry, I don't have the ability to ", "I'm sorry, but I am not able to ",
    "I'm sorry for any confusion, but I can't ", "I'm sorry, but as a chatbot, I can't ",
    "I'm sorry for any confusion, but as a chatbot, I don't have the ability to ",
)  # fmt: skip
EXCUSES = (".", " for you.", ". I'm a helpful AI.", " at home.", ". I'm here to assist you.")


def is_preferred(answer: str) -> bool:
    """Whether an answer is of the preferred kind: it says that it is done, and apologises for nothing."""
    return answer.startswith("Done") and "sorry" not in answer.lower()


def pairs_for(calls: list[tuple[str, Mapping[str, Any]]], rng: random.Random) -> Iterator[dict[str, Any]]:
    """A pair for each request and its call for which two answers of one length can be put together."""
    for request, call in calls:
        chosen = _by_length(OPENINGS, DONE[call["tool"]].format(**call), CLOSINGS)
        rejected = _by_length(APOLOGIES, REFUSED[call["tool"]].format(**call), EXCUSES)
        lengths = sorted(chosen.keys() & rejected.keys())
        if not lengths:
            continue
        length = rng.choice(lengths)
        yield {
            "prompt": [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": request},
            ],
            "chosen": [{"role": "assistant", "content": rng.choice(chosen[length])}],
            "rejected": [{"role": "assistant", "content": rng.choice(rejected[length])}],
        }


def _by_length(starts: tuple[str, ...], middle: str, ends: tuple[str, ...]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for start, end in product(starts, ends):
        text = f"{start}{middle}{end}"
        found.setdefault(len(text), []).append(text)
    return found


def calls_of(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The requests of the household data with the calls that answer them."""
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row[-2]["content"], json.loads(row[-1]["content"])) for row in rows]


def build() -> dict[Path, list[dict[str, Any]]]:
    """The rows of both files, made from the household requests of the SFT demo."""
    rng = random.Random(SEED)
    made = {}
    for path, source, number in (
        (TRAIN_PATH, "train.jsonl", NUM_TRAIN), (HELDOUT_PATH, "heldout.jsonl", NUM_HELDOUT),
    ):  # fmt: skip
        calls = calls_of(DATA_PATH / source)
        rng.shuffle(calls)
        made[path] = list(pairs_for(calls, rng))[:number]
    return made


if __name__ == "__main__":
    for path, rows in build().items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
