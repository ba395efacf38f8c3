"""What the corpora are made of: clean rows in every format, files to keep them in, and one fault planted."""

from __future__ import annotations

import copy
import csv
import json
import random
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tunesmith.config.run_config import DatasetSource
from tunesmith.data.report import ModelFit
from tunesmith.data.validate import Request

Row = dict[str, Any]
Expected = tuple[str, int | None, str | None]  # code, row, field

_ADJECTIVES = [
    "amber", "brittle", "crooked", "dusty", "eager", "frozen", "gentle", "hollow", "ivory", "jolly",
    "keen", "lofty", "mellow", "nimble",
]  # fmt: skip
_NOUNS = [
    "anchor", "barrel", "candle", "dagger", "easel", "ferry", "granary", "hammer", "island", "jacket",
    "kettle", "lantern", "mirror", "needle", "orchard", "paddle", "quarry", "rudder", "saddle", "tunnel",
    "umbrella", "violin", "wagon", "yard", "zither", "bakery", "chimney",
]  # fmt: skip
_PLACES = [
    "Oslo", "Lima", "Kyoto", "Nairobi", "Quebec", "Bergen", "Porto", "Tartu", "Cusco", "Hobart", "Galway",
    "Sapporo", "Windhoek",
]  # fmt: skip
_VERBS = [
    "guards", "follows", "repairs", "paints", "carries", "borrows", "measures", "outlives", "hides",
    "remembers",
]  # fmt: skip
_ENDS = [
    "at dawn", "every winter", "before supper", "without a sound", "by the river", "since the fire",
    "on Tuesdays",
]  # fmt: skip


def sentence(seed: object) -> str:
    """A statement that shares few runs of words with those of other seeds."""
    pick = random.Random(repr(seed)).choice
    return (
        f"The {pick(_ADJECTIVES)} {pick(_NOUNS)} of {pick(_PLACES)} {pick(_VERBS)} a {pick(_ADJECTIVES)} "
        f"{pick(_NOUNS)} near {pick(_PLACES)} {pick(_ENDS)}."
    )


def question(seed: object) -> str:
    """A question that shares few runs of words with those of other seeds."""
    said = sentence(("question", seed))
    return f"Is it true that {said[0].lower()}{said[1:-1]}?"


def turn(role: str, content: Any, **more: Any) -> Row:
    return {"role": role, "content": content, **more}


def said(who: str, value: Any) -> Row:
    return {"from": who, "value": value}


@dataclass(frozen=True)
class Format:
    """A shape of rows: `make(i)` gives clean row i, `make(i, full=True)` one with every optional part."""

    method: str
    make: Callable[..., Row]

    def rows(self, n: int) -> list[Row]:
        return [self.make(i) for i in range(n)]

    def as_method(self, method: str) -> Format:
        return Format(method, self.make)


def _dialogue(i: int, full: bool = False) -> list[Row]:
    start = [turn("system", f"Answer briefly. {sentence(('system', i))}")] if full or i % 4 == 0 else []
    for step in range(2 if full else 1 + i % 2):
        start += [turn("user", question((i, step))), turn("assistant", sentence((i, step)))]
    return start


def _answers(i: int) -> tuple[str, str]:
    """Two answers; the longer one comes first for every other row."""
    longer, shorter = f"{sentence((i, 'a'))} {sentence((i, 'b'))}", sentence((i, "c"))
    return (longer, shorter) if i % 2 else (shorter, longer)


def _sharegpt_turns(i: int, full: bool = False) -> list[Row]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [said(names[each["role"]], each["content"]) for each in _dialogue(i, full)]


def tool(name: str) -> Row:
    parameters = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


def call(name: str, arguments: Any, number: str = "call_1") -> Row:
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


def _with_tools(i: int, full: bool = False) -> Row:
    messages = [
        turn("system", f"Use the tools. {sentence(('system', i))}"),
        turn("user", question(i)),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [call("weather", json.dumps({"place": "Oslo"}))],
        },
        turn("tool", sentence((i, "tool")), tool_call_id="call_1"),
        turn("assistant", sentence(i)),
    ]
    return {"messages": messages, "tools": [tool("weather"), tool("clock")]}


def _sharegpt_tools(i: int, full: bool = False) -> Row:
    told = json.dumps({"name": "weather", "arguments": {"place": "Oslo"}})
    turns = [
        said("human", question(i)), said("function_call", told), said("observation", sentence((i, "tool"))),
        said("gpt", sentence(i)),
    ]  # fmt: skip
    return {
        "conversations": turns,
        "tools": json.dumps([tool("weather")["function"], tool("clock")["function"]]),
    }


def _alpaca(i: int, full: bool = False) -> Row:
    row: Row = {"instruction": question(i), "input": sentence((i, "in")) if full or i % 3 else ""}
    row |= {"output": sentence(i), "system": "Be brief." if full or i % 2 else ""}
    return row | {"history": [[question((i, "h")), sentence((i, "h"))]] if full or i % 5 == 0 else []}


def _transcript(i: int, answer: str) -> str:
    asked = f"\n\nHuman: {question(i)}\n\nAssistant: {sentence(i)}\n\nHuman: {question((i, 2))}"
    return f"{asked}\n\nAssistant: {answer}"


def _hh(i: int, full: bool = False) -> Row:
    return {
        name: _transcript(i, words) for name, words in zip(("chosen", "rejected"), _answers(i), strict=True)
    }


def _pair(i: int, wrap: Callable[[str], Any], names: tuple[str, str] = ("chosen", "rejected")) -> Row:
    return {name: wrap(words) for name, words in zip(names, _answers(i), strict=True)}


def _asked(i: int) -> list[Row]:
    return [turn("user", question(i))]


def _answered(words: str) -> list[Row]:
    return [turn("assistant", words)]


def _ranked(i: int, full: bool = False) -> Row:
    return {"conversations": [said("human", question(i))]} | _pair(i, lambda words: said("gpt", words))


def _openai(i: int, full: bool = False) -> Row:
    asked: Row = {"messages": _asked(i), "tools": [], "parallel_tool_calls": True}
    return {"input": asked} | _pair(i, _answered, ("preferred_output", "non_preferred_output"))


messages = Format("sft", lambda i, full=False: {"messages": _dialogue(i, full)})
tools = Format("sft", _with_tools)
sharegpt = Format("sft", lambda i, full=False: {"conversations": _sharegpt_turns(i, full), "system": None})
sharegpt_tools = Format("sft", _sharegpt_tools)
alpaca = Format("sft", _alpaca)
qa = Format("sft", lambda i, full=False: {"question": question(i), "answer": sentence(i)})
completion = Format("sft", lambda i, full=False: {"prompt": question(i), "completion": sentence(i)})
completion_chat = Format(
    "sft", lambda i, full=False: {"prompt": _asked(i), "completion": _answered(sentence(i))}
)
text = Format("sft", lambda i, full=False: {"text": f"{sentence(i)} {sentence((i, 2))}"})

pair_text = Format("dpo", lambda i, full=False: {"prompt": question(i)} | _pair(i, str))
pair_chat = Format("dpo", lambda i, full=False: {"prompt": _asked(i)} | _pair(i, _answered))
pair_implicit = Format("dpo", lambda i, full=False: _pair(i, lambda words: _asked(i) + _answered(words)))
pair_hh = Format("dpo", _hh)
better_worse = Format(
    "dpo", lambda i, full=False: {"question": question(i)} | _pair(i, str, ("better", "worse"))
)
ranking = Format("dpo", _ranked)
ranking_alpaca = Format(
    "dpo", lambda i, full=False: {"instruction": question(i), "input": "", "output": list(_answers(i))}
)
openai_pairs = Format("dpo", _openai)

kto_text = Format(
    "kto", lambda i, full=False: {"prompt": question(i), "completion": sentence(i), "label": i % 2 == 0}
)
kto_chat = Format("kto", lambda i, full=False: completion_chat.make(i) | {"label": i % 2 == 0})
kto_messages = Format("kto", lambda i, full=False: {"messages": _dialogue(i, full), "label": i % 2 == 0})
kto_alpaca = Format("kto", lambda i, full=False: _alpaca(i, full) | {"kto_tag": i % 2 == 0})

grpo_text = Format("grpo", lambda i, full=False: {"prompt": question(i), "answer": str(7 * i)})
grpo_chat = Format("grpo", lambda i, full=False: {"prompt": _asked(i), "solution": f"It is {7 * i}."})
grpo_problem = Format("grpo", lambda i, full=False: {"problem": question(i), "ground_truth": str(7 * i)})
grpo_messages = Format("grpo", lambda i, full=False: {"messages": _asked(i), "answer": 7 * i})

FORMATS = {
    "messages": messages, "tools": tools, "sharegpt": sharegpt, "sharegpt_tools": sharegpt_tools,
    "alpaca": alpaca,
    "qa": qa, "completion": completion, "completion_chat": completion_chat, "text": text,
    "pair_text": pair_text,
    "pair_chat": pair_chat, "pair_implicit": pair_implicit, "pair_hh": pair_hh, "better_worse": better_worse,
    "ranking": ranking, "ranking_alpaca": ranking_alpaca, "openai_pairs": openai_pairs, "kto_text": kto_text,
    "kto_chat": kto_chat, "kto_messages": kto_messages, "kto_alpaca": kto_alpaca, "grpo_text": grpo_text,
    "grpo_chat": grpo_chat, "grpo_problem": grpo_problem, "grpo_messages": grpo_messages,
}  # fmt: skip


def jsonl(folder: Path, rows: Iterable[Any]) -> Path:
    return raw(folder, "".join(json.dumps(row) + "\n" for row in rows).encode())


def raw(folder: Path, content: bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def json_array(folder: Path, rows: list[Row]) -> Path:
    return raw(folder, json.dumps(rows, indent=1, ensure_ascii=False).encode(), "rows.json")


def parquet(folder: Path, rows: list[Row]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_struct_array(pa.array(rows)), path, row_group_size=7)
    return path


def csv_file(folder: Path, rows: list[Row]) -> Path:
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows(row.values() for row in rows)
    return path


def two_files(folder: Path, rows: list[Row]) -> Path:
    half = len(rows) // 2
    for name, part in (("train-0.jsonl", rows[:half]), ("train-1.jsonl", rows[half:])):
        jsonl(folder, part).rename(folder / name)
    return folder


def saved(folder: Path, rows: list[Row]) -> Path:
    from datasets import Dataset

    Dataset.from_list(rows).save_to_disk(folder / "saved")
    return folder / "saved"


@dataclass(frozen=True)
class Case:
    """A data set, how to check it, and every finding that the check should have."""

    name: str
    method: str
    rows: list[Any]
    expected: tuple[Expected, ...] = ()
    save: Callable[[Path, list[Any]], Path] = jsonl
    evaluation: list[Row] | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    model: Callable[[], ModelFit] | None = None
    max_length: int = 1024

    def request(self, folder: Path, **more: Any) -> Request:
        """The data set written into `folder`, and the request to check it."""
        path, held_out = self.save(folder, self.rows), None
        if self.evaluation is not None:
            (folder / "held-out").mkdir(exist_ok=True)
            held_out = DatasetSource(path=str(jsonl(folder / "held-out", self.evaluation)))
        return Request(
            DatasetSource(path=str(path)),
            self.method,
            given=self.given,
            model=self.model() if self.model else None,
            max_length=self.max_length,
            evaluation=held_out,
            **more,
        )


def each_case(cases: Iterable[Case]) -> pytest.MarkDecorator:
    """Parametrises a test by `case`."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases])


GONE = object()
_SAME: Any = object()


def planted(
    name: str, shape: Format, path: str, value: Any, *codes: str, field: Any = _SAME, n: int = 24, **more: Any
) -> Case:
    """Clean rows, but for `value` at `path` of one: GONE takes the field away, a function changes it.

    Each of `codes` is expected there, or at `field` where that is another place.
    """
    at = 3 + zlib.crc32(name.encode()) % (n - 4)
    rows = shape.rows(n)
    rows[at] = put(shape.make(at, full=True), path, value)
    place = path if field is _SAME else field
    return Case(name, shape.method, rows, tuple((code, at, place) for code in codes), **more)


def put(row: Row, path: str, value: Any) -> Row:
    """`row` with another value at a path such as `messages[1].content`."""
    row = copy.deepcopy(row)
    *before, last = [int(i) if i else name for name, i in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)]
    place: Any = row
    for step in before:
        place = place[step]
    if value is GONE:
        del place[last]
    else:
        place[last] = value(place[last]) if callable(value) else value
    return row


def then(more: Any) -> Callable[[Any], Any]:
    """A change that adds `more` at the end of what is there."""
    return lambda old: old + more
