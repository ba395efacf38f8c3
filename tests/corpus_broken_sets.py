"""Broken data sets, one fault in each: files, rows beside each other, secrets, and rows before a model."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from corpus_rows import (
    Case,
    Format,
    alpaca,
    completion,
    completion_chat,
    csv_file,
    grpo_text,
    json_array,
    jsonl,
    kto_text,
    messages,
    pair_chat,
    pair_text,
    parquet,
    planted,
    put,
    qa,
    question,
    raw,
    saved,
    sentence,
    sharegpt,
    text,
    then,
    turn,
    two_files,
)  # fmt: skip
from templates import GLM4, tokenizer_with
from tiny import _train_tokenizer

from tunesmith.data.chat_templates import CHATML
from tunesmith.data.report import ModelFit


def rewritten(change: Callable[[bytes], bytes], save: Callable[[Path, list[Any]], Path] = jsonl) -> Any:
    """A way to save rows and then change the bytes of the file."""

    def write(folder: Path, rows: list[Any]) -> Path:
        path = save(folder, rows)
        path.write_bytes(change(path.read_bytes()))
        return path

    return write


def line(number: int, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """A change of one line of a file."""

    def changed(content: bytes) -> bytes:
        lines = content.split(b"\n")
        lines[number] = change(lines[number])
        return b"\n".join(lines)

    return changed


def file(name: str, shape: Format, row: int, save: Any, n: int = 24, **more: Any) -> Case:
    """Rows saved so that one of them can't be read."""
    return Case(name, shape.method, shape.rows(n), (("D001", row, None),), save=save, **more)


def empty(name: str, content: bytes, kind: str) -> Case:
    return Case(
        name, "sft", [], (("D306", None, None),), save=lambda folder, rows: raw(folder, content, kind)
    )


def no_rows_in_parquet(folder: Path, rows: list[Any]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "rows.parquet")
    return folder / "rows.parquet"


FILES = [
    file("a line is no JSON", messages, 11, rewritten(line(11, lambda old: old[:-3] + b"}}}"))),
    file("a line is words", text, 5, rewritten(line(5, lambda _: b"this is no row"))),
    file("a line has single quotes", qa, 7, rewritten(line(7, lambda old: old.replace(b'"', b"'")))),
    file("the last line is cut off", messages, 23, rewritten(lambda old: old[: len(old) - 40])),
    file("a row is a list", sharegpt, 9, rewritten(line(9, lambda _: b'["user", "hi"]'))),
    file("a row is a number", pair_text, 4, rewritten(line(4, lambda _: b"4"))),
    file("a row is null", kto_text, 13, rewritten(line(13, lambda _: b"null"))),
    file("a row is text", grpo_text, 6, rewritten(line(6, lambda _: b'"What?"'))),
    file("a byte is no UTF-8", messages, 8, rewritten(line(8, lambda old: old.replace(b"The", b"Th\xe9",
         1)))),
    Case("a byte is no UTF-8 in an array", "sft", qa.rows(24), (("D015", 8, "answer"),),
         save=rewritten(lambda old: put_byte(old, 8), json_array)),
    Case("a byte is no UTF-8 in CSV", "sft", qa.rows(24), (("D015", 8, "answer"),),
         save=rewritten(line(9, lambda old: old.replace(b"The", b"Th\xe9")), csv_file)),
    file("a line is UTF-16", text, 8, rewritten(line(8, lambda old: old.decode().encode("utf-16-le")))),
    file("a byte is no UTF-8 in Parquet", qa, 8, lambda folder, rows: bad_parquet(folder, rows, 8)),
    Case("every line has single quotes", "sft", qa.rows(6), tuple(("D001", row, None) for row in range(6)),
         save=lambda folder, rows: raw(folder, "\n".join(map(str, rows)).encode())),
    Case("lines broken at other places than rows", "sft", [None] * 4, tuple(("D001", row, None) for row in (1,
         2, 3)),
         save=lambda folder, rows: raw(folder,
         b'{"text": "A"}\n{"text":\n"B"}\n{"text": "C"} {"text": "D"}\n')),
    file("two rows on a line", text, 10, rewritten(line(10, lambda old: old + old))),
    file("a CSV row has too many fields", qa, 12, rewritten(line(13, lambda old: old[:-1] + b",more\r"),
         csv_file)),
    file("a CSV row has too few fields", qa, 12, rewritten(line(13, lambda _: b"only one\r"), csv_file)),
    file("a bad line in the second of two files", messages, 15,
         lambda folder, rows: bad_second_file(folder, rows, 15 - 12)),
    file("an array is cut off", qa, 23, rewritten(lambda old: old[:-30], json_array)),
    Case("an array holds a number", "sft", [*qa.rows(11), 7, *qa.rows(24)[12:]], (("D001", 11, None),),
         save=json_array),
    empty("only blank lines", b"\n  \n\r\n", "rows.jsonl"),
    empty("an empty array", b"[ ]\n", "rows.json"),
    empty("only a header", b"question,answer\r\n", "rows.csv"),
    Case("a table of no rows", "sft", [], (("D306", None, None),), save=no_rows_in_parquet),
]  # fmt: skip


def put_byte(content: bytes, row: int) -> bytes:
    """A file of JSON with a byte of Latin-1 in the answer of a row."""
    parts = content.split(b'"answer": "')
    parts[row + 1] = b"\xe9" + parts[row + 1]
    return b'"answer": "'.join(parts)


def bad_second_file(folder: Path, rows: list[Any], number: int) -> Path:
    two_files(folder, rows)
    second = folder / "train-1.jsonl"
    second.write_bytes(line(number, lambda old: old[1:])(second.read_bytes()))
    return folder


def bad_parquet(folder: Path, rows: list[Any], number: int) -> Path:
    """Answers as a writer leaves them that doesn't look at bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    answers = [row["answer"].encode() for row in rows]
    answers[number] = b"Caf\xe9"
    _, offsets, data = pa.array(answers, pa.binary()).buffers()
    columns = {"question": [row["question"] for row in rows]}
    columns["answer"] = pa.StringArray.from_buffers(len(rows), offsets, data)
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    return folder / "rows.parquet"


def again(
    name: str, shape: Format, code: str, change: Callable[[Any], Any], n: int = 24, **more: Any
) -> Case:
    """A row that is there twice, the second time with a change."""
    rows = shape.rows(n)
    rows.insert(17, change(rows[4]))
    return Case(name, shape.method, rows, ((code, 17, None),), **more)


def held_out(name: str, shape: Format, code: str, change: Callable[[Any], Any], **more: Any) -> Case:
    """Training rows of which one is also in the evaluation data, with a change."""
    evaluation = [shape.make(i) for i in range(100, 112)]
    evaluation[5] = change(shape.make(7))
    return Case(name, shape.method, shape.rows(24), ((code, 5, None),), evaluation=evaluation, **more)


def louder(path: str) -> Callable[[Any], Any]:
    return lambda row: put(row, path, lambda old: f"  {old.upper()}  ".replace(" ", " \u00a0"))


_LONG = Format("sft", lambda i, full=False: {"text": " ".join(sentence((i, part)) for part in range(8))})


def _one_word(path: str) -> Callable[[Any], Any]:
    return lambda row: put(row, path, lambda old: old.replace("The ", "A ", 1))


SETS = [
    again("a row twice", messages, "D301", lambda row: row),
    again("a pair twice", pair_chat, "D301", lambda row: row, save=parquet),
    again("a labelled answer twice", kto_text, "D301", lambda row: row),
    again("a prompt twice", grpo_text, "D301", lambda row: row, save=two_files),
    again("a row twice in other letters", qa, "D301", louder("answer"), save=csv_file),
    again("a text twice with other blanks", text, "D301", lambda row: put(row, "text",
          lambda old: old.replace(" ", "\n\n"))),
    again("a row nearly twice", _LONG, "D302", _one_word("text")),
    again("a row nearly twice in Parquet", _LONG, "D302", lambda row: put(row, "text", then(" Or so.")),
          save=parquet),
    again("another answer", qa, "D305", lambda row: put(row, "answer", sentence("other"))),
    again("another answer of a conversation", completion_chat, "D305",
          lambda row: put(row, "completion[0].content", sentence("other")), save=json_array),
    again("another reference", grpo_text, "D305", lambda row: put(row, "answer", "-1")),
    again("another output", alpaca, "D305", lambda row: put(row, "output", sentence("other")), save=saved),
    held_out("a training row held out", messages, "D303", lambda row: row),
    held_out("a training row held out in other letters", qa, "D303", louder("question")),
    held_out("a pair held out", pair_text, "D303", lambda row: row, save=parquet),
    held_out("a training row nearly held out", _LONG, "D304", _one_word("text")),
]  # fmt: skip


def _random(alphabet: str, length: int) -> str:
    return "".join(random.Random(f"{alphabet}{length}").choices(alphabet, k=length))


_LETTERS = string.ascii_letters + string.digits
# Put together here, so that no scanner of this repository takes them for real ones.
KEYS = {
    "OpenAI": "sk-" + "proj-" + _random(_LETTERS, 48),
    "Hugging Face": "hf" + "_" + _random(_LETTERS, 34),
    "GitHub": "gh" + "p_" + _random(_LETTERS, 36),
    "AWS": "AK" + "IA" + _random("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16),
    "Slack": "xo" + "xb-" + _random(string.digits, 12) + "-" + _random(_LETTERS, 24),
    "Google": "AI" + "za" + _random(_LETTERS, 35),
}
PRIVATE_KEY = (
    "-----BEGIN RSA " + "PRIVATE KEY-----\n" + "\n".join(_random(_LETTERS, 64 - i) for i in range(6))
    + "\n-----END RSA " + "PRIVATE KEY-----"
)  # fmt: skip
EMAIL = "ingrid.solberg" + "@" + "fjordkraft.no"

SAFETY = [
    *[planted(f"a key of {name}", messages, "messages[2].content", then(f" Use {key} for it."), "D401")
      for name, key in KEYS.items()],
    planted("a key in a question", sharegpt, "conversations[1].value", then(f" My key: {KEYS['GitHub']}"),
            "D401",
            save=parquet),
    planted("a key in rejected", pair_text, "rejected", then(f" token={KEYS['Hugging Face']}"), "D401"),
    planted("a key in a completion", kto_text, "completion", then(f" {KEYS['AWS']}"), "D401", save=csv_file),
    planted("a private key", text, "text", then(f"\n{PRIVATE_KEY}\n"), "D402"),
    planted("a private key in an answer", qa, "answer", PRIVATE_KEY, "D402", save=parquet),
    planted("an e-mail address", alpaca, "output", then(f" Write to {EMAIL}."), "D403"),
    planted("an e-mail address in a prompt", grpo_text, "prompt", then(f" Ask {EMAIL}"), "D403",
            save=json_array),
    planted("an e-mail address in a system message", messages, "messages[0].content", then(f" ({EMAIL})"),
            "D403",
            save=saved),
]  # fmt: skip


@cache
def _tokenizer(template: str | None) -> Any:
    tokenizer = _train_tokenizer(chat_template=False)
    tokenizer.chat_template = template
    return tokenizer


@cache
def _beginning() -> Any:
    """A tokenizer that puts a begin-of-text token before every text."""
    from tokenizers import processors

    tokenizer = _train_tokenizer(chat_template=False)
    tokenizer.add_special_tokens({"bos_token": "[BOS]"})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A", pair="[BOS] $A $B", special_tokens=[("[BOS]", bos)]
    )
    return tokenizer


def fits(tokenizer: Callable[[], Any], vocab_size: int | None = None) -> Callable[[], ModelFit]:
    return lambda: ModelFit("tiny", tokenizer(), vocab_size)


_NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHATML
)
_MARKED = fits(lambda: _tokenizer(CHATML))
_UNMARKED = fits(
    lambda: _tokenizer(CHATML.replace("{%- generation %}", "").replace("{% endgeneration %}", ""))
)
_asked = Format("sft", lambda i, full=False: {"messages": messages.make(4 * i + 1)["messages"]})
_SYSTEM = [turn("system", "Be brief."), turn("user", question("x")), turn("assistant", sentence("x"))]

MODEL = [
    planted("a template that knows no system message", _asked, "messages", _SYSTEM, "D201", field=None,
            model=fits(lambda: _tokenizer(_NO_SYSTEM))),
    planted("a second begin-of-text token", text, "text", lambda old: f"[BOS]{old}", "D202", field=None,
            model=fits(_beginning)),
    Case("a template without an end of turn", "sft", _asked.rows(12),
         (("D203", None, None), ("D208", None, None)), model=fits(lambda: tokenizer_with(GLM4))),
    planted("an answer of no weight", _asked, "messages",
            lambda old: [each | {"weight": 0} if each["role"] == "assistant" else each for each in old],
            "D204", field=None, model=_MARKED),
    planted("a text that is cut", text, "text", lambda old: f"{old} " + "on and on, " * 400, "D205",
            field=None,
            model=_MARKED),
    Case("an answer that is cut", "sft",
         [*_asked.rows(11), {"messages": [turn("user", "Go on?"), turn("assistant", "on and on, " * 400)]}],
         (("D205", 11, None), ("D207", None, None)), model=_MARKED),
    Case("an answer that is cut away", "sft",
         [*_asked.rows(11), {"messages": [turn("user", "on and on, " * 400), turn("assistant", "Yes.")]}],
         (("D206", 11, None), ("D207", None, None)), model=_MARKED),
    Case("a template without marks", "sft", messages.rows(12), (("D208", None, None),), model=_UNMARKED),
    Case("a model of fewer tokens", "sft", _asked.rows(12), (("D209", None, None),),
         model=fits(lambda: _tokenizer(CHATML), vocab_size=100)),
    Case("plain text for a chat model", "sft", completion.rows(12), (("D210", None, None),), model=_MARKED),
    planted("an empty answer before a template", messages, "messages[4].content", "", "D004", model=_MARKED),
    Case("pairs that are cut", "dpo", [*pair_text.rows(11),
         pair_text.make(11) | {"chosen": "so and so, " * 400}],
         (("D205", 11, "chosen"), ("D207", None, None)), model=_MARKED),
    Case("pairs that differ beyond the cut alone", "dpo", [*pair_text.rows(11),
         pair_text.make(11) | {side: "so and so, " * 400 + side for side in ("chosen", "rejected")}],
         (("D205", 11, "chosen"), ("D205", 11, "rejected"), ("D207", None, None), ("D211", 11, None)),
         model=_MARKED),
    Case("answers of plain text without a question", "dpo",
         [{side: f"{sentence((i, side))}" for side in ("chosen", "rejected")} for i in range(12)],
         (("D108", None, None),)),
]  # fmt: skip

BROKEN_SETS: list[Case] = [*FILES, *SETS, *SAFETY, *MODEL]
