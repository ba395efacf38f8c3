"""The demo's data, made from a seed: spoken household requests, each answered by one JSON call.

A wording is one way to ask for one tool. A quarter of the wordings, drawn at random, never occurs in the
training rows, nor does a third of the items, dishes and genres. Half of the held-out rows are built on those
wordings; the other half on known ones, in requests that training never shows, whatever the values. So a model
that answers the held-out rows has learned the task, not the sentences. `python -m tunesmith.demo.household`
rewrites the two files in `data/`, byte for byte the same each time.
"""

import json
import random
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from tunesmith.demo import wording as words

SYSTEM_PROMPT = "Reply with one JSON call."
SEED = 7
# Twice as many where the state has to be understood from a hint, which is what a small model learns last.
TRAIN_ROWS = {"light": 150, "blinds": 150, "heating": 90, "timer": 75, "shopping": 110, "music": 75}
HELDOUT_ROWS = 12  # of each tool, half of them on wordings that training never shows
MAX_WORDS = 19  # of a request; keeps a row near 50 tokens
DATA_PATH = Path(__file__).parent / "data"

# The arguments of each tool, in the order in which its call names them.
ARGUMENTS = {
    "light": ("room", "state"),
    "blinds": ("room", "state"),
    "heating": ("room", "celsius"),
    "timer": ("minutes", "for"),
    "shopping": ("item", "count"),
    "music": ("room", "genre"),
}
STATES = {"light": ("on", "off"), "blinds": ("open", "closed")}

# How a request goes beyond its wording, as shares of the rows.
STYLES = {"plain": 0.25, "polite": 0.40, "aside": 0.21, "corrected": 0.14}

Values = Mapping[str, str | int]


@dataclass(frozen=True)
class Wording:
    """One way to ask for a tool; `block` is its key in `wording.WORDINGS`."""

    tool: str
    block: str
    text: str

    @property
    def implied(self) -> Values:
        """The values that the wording fixes without a slot."""
        if self.block in ("ask", "hint"):
            return {}
        return {"count": 1} if self.block == "single" else {"state": self.block}

    def has(self, *slots: str) -> bool:
        """Whether one of `slots` stands in the text."""
        return any("{" + slot + "}" in self.text for slot in slots)

    def correctable(self) -> list[str]:
        """The arguments whose value a speaker of this wording may take back."""
        if self.tool in STATES:
            return ["room"] if self.implied else ["room", "state"]
        if self.tool == "shopping":
            spoken = {"item": self.has("item"), "count": self.has("n", "amount")}
            return [name for name in spoken if spoken[name]]
        return list(ARGUMENTS[self.tool])


def all_wordings() -> list[list[Wording]]:
    """Every wording, one list a block."""
    return [
        [Wording(tool, block, text) for text in texts]
        for tool, blocks in words.WORDINGS.items()
        for block, texts in blocks.items()
    ]


def vocabulary() -> dict[str, list]:
    """The values each argument may take, but for `state`, whose values depend on the tool."""
    return {
        "room": list(words.ROOMS),
        "genre": list(words.GENRES),
        "for": list(words.DISHES),
        "item": list(words.CONTAINERS),
        "celsius": list(words.CELSIUS),
        "minutes": list(words.MINUTES),
        "count": list(words.COUNTS),
    }


def number_word(number: int) -> str:
    """`number` (0 to 49) in words."""
    if number < len(words.UNITS):
        return words.UNITS[number]
    tens = words.TENS[number - number % 10]
    return tens if number % 10 == 0 else f"{tens}-{words.UNITS[number % 10]}"


def spoken_slots(values: Values, rng: random.Random) -> dict[str, str]:
    """What stands in a wording's slots when `values` are meant."""
    slots = {name: str(values[name]) for name in ("room", "genre", "item") if name in values}
    slots["dish"] = str(values.get("for"))
    state = values.get("state")
    slots |= {"on": str(state), "opened": str(state)}
    slots |= {"open": "open", "up": "up"} if state == "open" else {"open": "close", "up": "down"}
    number = next((int(values[name]) for name in ("celsius", "minutes", "count") if name in values), 0)
    slots["n"] = rng.choice((str(number), number_word(number)))
    slots["minutes"] = f"{slots['n']} minutes"
    if number in words.MINUTE_PHRASES and rng.random() < 0.8:
        slots["minutes"] = words.MINUTE_PHRASES[number]
    if "count" in values:
        container = words.CONTAINERS[str(values["item"])]
        if number > 1:
            container += "es" if container.endswith("x") else "s"
        count = words.AMOUNT_PHRASES.get(number, slots["n"]) if rng.random() < 0.7 else slots["n"]
        slots["amount"] = f"{count} {container} of {values['item']}"
    return slots


def join(core: str, tail: str) -> str:
    """`core` and then `tail`, as a new sentence where `core` is a question."""
    return f"{core} {tail[0].upper()}{tail[1:]}" if core.endswith("?") else f"{core}, {tail}"


def polite(core: str, wording: Wording, rng: random.Random) -> str:
    """`core` with an opener, a closer or both."""
    ends = rng.choice(("open", "close", "both"))
    if ends != "open":
        may_plead = wording.block == "ask" and "please" not in core and not core.endswith("?")
        core = join(core, rng.choice(words.PLEASES if may_plead and rng.random() < 0.6 else words.THANKS))
    return core if ends == "close" else f"{rng.choice(words.OPENERS)} {core}"


def with_aside(core: str, wording: Wording, values: Values, rng: random.Random) -> str:
    """`core` with a remark that holds a room or a number which the call must not take up."""
    kind = "no room" if "room" not in values else "ask" if wording.block == "ask" else "hint"
    if wording.block != "single" and rng.random() < 0.4:
        kind = "number"
    other = rng.choice([room for room in words.ROOMS if room != values.get("room")])
    number = rng.choice((str, number_word))(rng.randint(3, 9))
    before, after = rng.choice(words.ASIDES[kind]).format(other=other, number=number, core="|").split("|")
    return join(core, after.removeprefix(", ")) if after else before + core


def corrected(wording: Wording, values: Values, pools: Mapping[str, list], rng: random.Random) -> str:
    """A request that first names one wrong value and then takes it back."""
    name = rng.choice(wording.correctable())
    known = STATES[wording.tool] if name == "state" else pools[name]
    wrong = rng.choice([value for value in known if value != values[name]])
    core = wording.text.format(**spoken_slots({**values, name: wrong}, rng))
    meant = spoken_slots(values, rng)
    if name == "state":
        name = "on" if wording.tool == "light" else "open"
    spoken = {"for": meant["dish"], "celsius": meant["n"], "minutes": meant["n"], "count": meant["n"]}
    tail = rng.choice(words.CORRECTIONS[name]).format(new=spoken.get(name) or meant[name])
    return join(core, tail)


def finished(request: str, rng: random.Random) -> str:
    """`request` with its capital and full stop, or, one time in four, typed in haste without them."""
    if rng.random() < 0.25:
        return request.lower().removesuffix("?")
    request = request[0].upper() + request[1:]
    return request if request.endswith("?") else request + "."


def row(request: str, tool: str, values: Values) -> dict:
    """One conversation in the format of TRL's conversational datasets."""
    call = {"tool": tool, **{name: values[name] for name in ARGUMENTS[tool]}}
    said = {"system": SYSTEM_PROMPT, "user": request, "assistant": json.dumps(call, separators=(",", ":"))}
    return {"messages": [{"role": role, "content": content} for role, content in said.items()]}


def spread(shares: Mapping[str, float], num_rows: int, rng: random.Random) -> Iterator[str]:
    """The keys of `shares`, each as often as its share of `num_rows` says, shuffled; then around again."""
    keys = list(shares)
    bounds = [round(num_rows * sum(shares[key] for key in keys[:i])) for i in range(len(keys) + 1)]
    names = [key for i, key in enumerate(keys) for _ in range(bounds[i + 1] - bounds[i])]
    rng.shuffle(names)
    return cycle(names)


class Shuffled:
    """Draws from a pool, every member once before any comes again."""

    def __init__(self, pool: list, rng: random.Random) -> None:
        self.pool, self.rng = pool, rng
        self.left: list = []

    def draw(self) -> Any:
        if not self.left:
            self.left = self.rng.sample(self.pool, len(self.pool))
        return self.left.pop()


def request_of(conversation: dict) -> str:
    """What the person says in a conversation."""
    return str(conversation["messages"][1]["content"])


def skeleton(request: str) -> str:
    """`request` in lower case without marks, a # in place of each value."""
    names = [*words.ROOMS, *words.GENRES, *words.DISHES, *words.CONTAINERS, *words.MINUTE_PHRASES.values()]
    names += [*words.AMOUNT_PHRASES.values(), *(number_word(number) for number in range(50))]
    names += [form for container in words.ITEMS for form in (f"{container}es", f"{container}s", container)]
    names += ["on", "off", "opened", "open", "closed", "close", "up", "down"]
    pattern = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    plain = re.sub(rf"\b({pattern}|\d+)\b", "#", request.lower())
    return " ".join(re.findall(r"[#\w']+", plain))


def tool_rows(
    tool: str,
    wordings: list[Wording],
    pools: Mapping[str, list],
    num_rows: int,
    rng: random.Random,
    seen: Container[str],
) -> list[dict]:
    """`num_rows` different conversations that call `tool`, none with a skeleton in `seen`."""
    styles = spread(STYLES, num_rows, rng)
    draw_wording = Shuffled(wordings, rng)
    arguments = {name: Shuffled(pools.get(name) or list(STATES[tool]), rng) for name in ARGUMENTS[tool]}
    rows: dict[str, dict] = {}
    while len(rows) < num_rows:
        wording, style = draw_wording.draw(), next(styles)
        values = {name: pool.draw() for name, pool in arguments.items()} | wording.implied
        core = wording.text.format(**spoken_slots(values, rng))
        if style == "corrected":
            core = corrected(wording, values, pools, rng)
        elif style == "aside":
            core = with_aside(core, wording, values, rng)
        elif style == "polite":
            core = polite(core, wording, rng)
        request = finished(core, rng)
        spelling = "".join(filter(str.isalnum, request.lower()))
        if len(request.split()) <= MAX_WORDS and spelling not in rows and skeleton(request) not in seen:
            rows[spelling] = row(request, tool, values)
    return list(rows.values())


def split_rows(
    wordings: list[Wording],
    pools: Mapping[str, list],
    num_rows: Mapping[str, int],
    rng: random.Random,
    seen: Container[str] = (),
) -> list[dict]:
    """The shuffled conversations of one split, `num_rows` of each tool."""
    rows = []
    for tool, count in num_rows.items():
        rows += tool_rows(tool, [each for each in wordings if each.tool == tool], pools, count, rng, seen)
    rng.shuffle(rows)
    return rows


def build(seed: int = SEED, num_heldout: int = HELDOUT_ROWS) -> tuple[list[dict], list[dict]]:
    """The training and the held-out conversations, of these `num_heldout` of each tool."""
    rng = random.Random(seed)
    heard: list[Wording] = []
    reserved: list[Wording] = []
    for block in all_wordings():
        shuffled = rng.sample(block, len(block))
        reserved += shuffled[: len(block) // 4]
        heard += shuffled[len(block) // 4 :]
    pools = vocabulary()
    known = {name: rng.sample(pools[name], len(pools[name]) * 2 // 3) for name in ("item", "for", "genre")}
    train = split_rows(heard, pools | known, TRAIN_ROWS, rng)
    seen = {skeleton(request_of(each)) for each in train}
    new = dict.fromkeys(TRAIN_ROWS, num_heldout // 2)
    heldout = split_rows(reserved, pools, new, rng, seen)
    heldout += split_rows(heard, pools, dict.fromkeys(TRAIN_ROWS, num_heldout - num_heldout // 2), rng, seen)
    rng.shuffle(heldout)
    return train, heldout


def as_jsonl(rows: list[dict]) -> str:
    """`rows` as the text of a JSONL file."""
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows)


def write_data(folder_path: Path = DATA_PATH) -> None:
    """Write train.jsonl and heldout.jsonl into `folder_path`."""
    folder_path.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train", "heldout"), build(), strict=True):
        (folder_path / f"{name}.jsonl").write_text(as_jsonl(rows), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_data()
