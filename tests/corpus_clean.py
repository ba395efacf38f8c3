"""Clean data sets in every format and method, with much in them that only looks like a fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus_broken_sets import fits
from corpus_rows import (
    Case,
    Format,
    _answered,
    _asked,
    alpaca,
    better_worse,
    call,
    completion,
    completion_chat,
    csv_file,
    grpo_chat,
    grpo_messages,
    grpo_problem,
    grpo_text,
    json_array,
    jsonl,
    kto_alpaca,
    kto_chat,
    kto_messages,
    kto_text,
    messages,
    openai_pairs,
    pair_chat,
    pair_hh,
    pair_implicit,
    pair_text,
    parquet,
    qa,
    question,
    ranking,
    ranking_alpaca,
    raw,
    said,
    saved,
    sentence,
    sharegpt,
    sharegpt_tools,
    text,
    tools,
    turn,
    two_files,
)  # fmt: skip
from templates import LLAMA3, tokenizer_with

SCRIPTS = [
    "日本の首都は東京です。人口は約千四百万人です。", "今天天气很好，我们去公园散步吧。",
    "الطقس جميل اليوم في المدينة القديمة.",
    "Привет! Как прошёл твой день на работе?", "오늘은 도서관에서 책을 읽었습니다.",
    "Grüße aus Köln: 3 € für ein Eis 🍦 im Juli.",
    "👩‍👩‍👧‍👦 The family emoji is joined by zero-width joiners 🏳️‍🌈.", "สวัสดีครับ วันนี้อากาศดีมาก",
    "नमस्ते, आप कैसे हैं? मैं ठीक हूँ।",
    "می‌خواهم کتاب بخوانم، نه فیلم ببینم.", "Schiff\u00adfahrts\u00adgesellschaft with soft hyphens",
    "Γειά σου Κόσμε, τι κάνεις;",
]  # fmt: skip
CODE = [
    "@property\ndef area(self):\n    return self.width * self.height",
    "@app.route('/users/<int:user_id>')\n@login_required\ndef show(user_id): ...",
    "xs |> List.map (fun x -> x + 1) |> List.filter (fun x -> x <|> 3)",
    "if (a < b || c > d) { out << \"<b>bold</b>\" << std::endl; } // vector<int>",
    "<s-button>go</s-button> <strike>old</strike> <span>new</span>",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8 (tag: v1.0)",
    "request 550e8400-e29b-41d4-a716-446655440000 took 12 ms",
    "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    "Write to user@example.com or admin@test.example; never to no-reply@example.org.",
    "api_key = os.environ['OPENAI_API_KEY']  # sk-... goes there", "scores[INST_ID] |= mask | (1 << 3)",
    "\tint main(void) {\n\t\treturn 0;\n\t}\f\n", "SELECT * FROM t WHERE a <> 'x' AND b |> 3 -- <|> operator",
    "git clone git@github.com:owner/name.git && cd name",
    "![chart](data:image/png;base64,iVBORw0KGgoAAAANSUhEUg)",
    "Authorization: Bearer YOUR_TOKEN_HERE", "psql postgres://user:password@localhost:5432/db", "icon@2x.png",
]  # fmt: skip


def answering(answers: list[str]) -> list[dict]:
    return [
        {"messages": [turn("user", question(i)), turn("assistant", words)]} for i, words in enumerate(answers)
    ]


def crlf(folder: Path, rows: list[Any]) -> Path:
    path = jsonl(folder, rows)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    return path


def with_bom(folder: Path, rows: list[Any]) -> Path:
    return raw(folder, b"\xef\xbb\xbf" + jsonl(folder, rows).read_bytes())


def with_blank_lines(folder: Path, rows: list[Any]) -> Path:
    return raw(folder, b"\n \r\n" + jsonl(folder, rows).read_bytes().replace(b"\n", b"\n\n  \n\t\n"))


def without_last_newline(folder: Path, rows: list[Any]) -> Path:
    return raw(folder, jsonl(folder, rows).read_bytes().rstrip())


def in_json_file(folder: Path, rows: list[Any]) -> Path:
    return jsonl(folder, rows).rename(folder / "rows.json")


def tsv(folder: Path, rows: list[Any]) -> Path:
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    return raw(folder, "\n".join(lines).encode("utf-8-sig"), "rows.tsv")


def string_views(folder: Path, rows: list[Any]) -> Path:
    import pyarrow as pa

    return _as_arrow(folder, rows, {name: lambda column: column.cast(pa.string_view()) for name in rows[0]})


def other_strings(folder: Path, rows: list[Any]) -> Path:
    import pyarrow as pa

    return _as_arrow(folder, rows, {
        "question": lambda column: column.cast(pa.large_string()),
        "answer": lambda column: column.dictionary_encode(),
    })  # fmt: skip


def _as_arrow(folder: Path, rows: list[Any], kinds: dict[str, Callable[[Any], Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows)
    changed_table = pa.table({name: kinds[name](table[name]) for name in table.column_names})
    pq.write_table(changed_table, folder / "rows.parquet")
    return folder / "rows.parquet"


def clean(name: str, shape: Format, n: int = 24, save: Callable[..., Path] = jsonl, **more: Any) -> Case:
    return Case(name, shape.method, shape.rows(n), save=save, **more)


def changed(name: str, shape: Format, change: Callable[[int, dict], dict], n: int = 24, **more: Any) -> Case:
    rows = [change(i, row) for i, row in enumerate(shape.rows(n))]
    return Case(name, shape.method, rows, **more)


def _as_parts(i: int, row: dict) -> dict:
    for each in row["messages"][i % 2 :: 2]:
        half = len(each["content"]) // 2
        each["content"] = [
            {"type": "text", "text": part} for part in (each["content"][:half], each["content"][half:])
        ]
    return row


def _weighted(i: int, row: dict) -> dict:
    for each in row["messages"]:
        if each["role"] == "assistant":
            each["weight"] = i % 2
    return row


def _objects(i: int, row: dict) -> dict:
    row["messages"][2]["tool_calls"] = [call("weather", {"place": "Oslo"}), call("clock", {}, "call_2")]
    row["messages"].insert(4, turn("tool", sentence((i, "clock")), tool_call_id="call_2"))
    return row


def _empty_words(i: int, row: dict) -> dict:
    row["messages"][2]["content"] = ""
    return row | {"tools": json.dumps(row["tools"])}


def _developer(i: int, row: dict) -> dict:
    return {
        "messages": [turn("developer", "Be brief."), *(m for m in row["messages"] if m["role"] != "system")]
    }


def _names(i: int, row: dict) -> dict:
    return {"dialog": [{"speaker": each["role"], "text": each["content"]} for each in row["messages"]]}


def _null_history(i: int, row: dict) -> dict:
    return row | {"history": None, "input": None, "system": "Be brief." if i > 12 else None}


CONVERSATIONS = [
    clean("conversations", messages),
    clean("conversations in Parquet", messages, save=parquet),
    clean("conversations in an array", messages, save=json_array),
    clean("conversations in two files", messages, save=two_files),
    clean("saved conversations", messages, save=saved),
    clean("conversations with CRLF", messages, save=crlf),
    clean("conversations after a byte order mark", messages, save=with_bom),
    clean("conversations between blank lines", messages, save=with_blank_lines),
    clean("conversations after spaces", messages,
          save=lambda folder, rows: raw(folder,
          b"".join(b"  " + json.dumps(row).encode() + b"\n" for row in rows))),
    clean("conversations without last newline", messages, save=without_last_newline),
    clean("JSON lines in a .json file", messages, save=in_json_file),
    clean("one conversation", messages, n=1),
    changed("text in parts", messages, _as_parts),
    changed("text in parts in Parquet", Format("sft", lambda i, full=False: messages.make(1)),
            lambda i, row: _as_parts(0, messages.make(i)) | {"id": i}),
    changed("weights", messages, _weighted),
    changed("weights in Parquet", messages, _weighted, save=parquet),
    changed("a developer's message", messages, _developer),
    changed("names of another format", messages, _names),
    changed("named speakers and other keys", messages, lambda i, row: {
        "id": i, "meta": {"tags": ["a", None]},
        "messages": [each | {"name": "x"} for each in row["messages"]]}),
    Case("many scripts", "sft", answering(SCRIPTS)),
    Case("many scripts in Parquet", "sft", answering(SCRIPTS), save=parquet),
    Case("code", "sft", answering(CODE)),
    Case("code as questions and answers", "sft", [{"question": question(i), "answer": code} for i,
         code in enumerate(CODE)],
         save=csv_file),
    Case("text of many scripts", "sft", [{"text": words} for words in SCRIPTS], save=json_array),
    Case("calls that differ in their arguments", "sft", [
        {"messages": [turn("user", f"Look up number {i}, please."),
                      {"role": "assistant", "tool_calls": [call("look", {"row": i})]}]}
        for i in range(12)]),
    clean("calls and tools", tools),
    clean("calls and tools in Parquet", tools, save=parquet),
    changed("arguments as objects", tools, _objects),
    changed("tools in JSON and calls without words", tools, _empty_words),
    clean("function calls and observations", sharegpt_tools),
    clean("function calls in Parquet", sharegpt_tools, save=parquet),
]  # fmt: skip

COLUMNS = [
    clean("ShareGPT", sharegpt),
    clean("ShareGPT in Parquet", sharegpt, save=parquet),
    changed("ShareGPT of ever other names", sharegpt, lambda i, row: {"conversations": [
        said({"human": "Human", "gpt": "chatgpt"}.get(each["from"], "system"), each["value"])
        for each in row["conversations"]]}),
    changed("a column of nulls that ends", sharegpt, lambda i,
            row: row | {"system": "Be brief." if i > 230 else None},
            n=240),
    clean("Alpaca", alpaca),
    clean("saved Alpaca", alpaca, save=saved),
    changed("Alpaca with nulls", alpaca, _null_history, save=parquet),
    changed("Alpaca in CSV", alpaca, lambda i, row: {key: row[key] for key in ("instruction", "input",
            "output")},
            save=csv_file),
    clean("questions and answers", qa),
    clean("questions and answers in CSV", qa, save=csv_file),
    clean("questions and answers in TSV", qa, save=tsv),
    Case("columns as given", "sft", [{"q": question(i), "a": sentence(i)} for i in range(24)],
         given={"user": "q", "assistant": "a"}),
    clean("completions", completion, save=two_files),
    clean("completions of conversations", completion_chat),
    clean("completions of conversations in Parquet", completion_chat, save=parquet),
    changed("completions that call a tool first", completion_chat, lambda i, row: row | {"completion": [
        {"role": "assistant", "content": None, "tool_calls": [call("clock", {})]}, turn("tool", sentence((i,
        "tool"))),
        *row["completion"]]}),
    Case("columns with a dot in their name", "sft",
         [{"chat.messages": row["messages"]} for row in messages.rows(12)],
         given={"messages": "chat.messages"}, save=parquet),
    clean("text as string views", text, save=string_views),
    clean("text as large strings and categories", qa, save=other_strings),
    clean("plain text", text),
    clean("plain text in CSV", text, save=csv_file),
]  # fmt: skip

METHODS = [
    clean("pairs", pair_text),
    clean("pairs in CSV", pair_text, save=csv_file),
    clean("pairs for a reward model", pair_text.as_method("reward"), save=parquet),
    clean("pairs of messages", pair_chat),
    clean("pairs of messages in Parquet", pair_chat, save=parquet),
    clean("pairs with their prompt in them", pair_implicit),
    clean("pairs with their prompt in them, saved", pair_implicit, save=saved),
    changed("different prompts with the same answers", pair_implicit, lambda i, row: {
        side: _asked(i) + _answered(words) for side, words in (("chosen", "Yes."), ("rejected", "No!!"))}),
    Case("the longer answer wins in most of few pairs", "dpo",
         [pair_text.make(2 * i + (i % 4 > 0)) for i in range(12)]),
    clean("transcripts", pair_hh),
    clean("transcripts for a reward model", pair_hh.as_method("reward"), save=json_array),
    clean("better and worse", better_worse),
    clean("ranked messages", ranking),
    clean("ranked messages in Parquet", ranking, save=parquet),
    clean("ranked answers", ranking_alpaca),
    clean("ranked answers in two files", ranking_alpaca, save=two_files),
    clean("OpenAI's preferences", openai_pairs),
    clean("OpenAI's preferences in Parquet", openai_pairs, save=parquet),
    clean("labelled completions", kto_text),
    clean("labelled completions in CSV", kto_text, save=csv_file),
    changed("labels as numbers", kto_text, lambda i, row: row | {"label": i % 2}),
    clean("labelled messages", kto_chat, save=parquet),
    clean("labelled conversations", kto_messages),
    clean("tagged outputs", kto_alpaca, save=saved),
    clean("prompts with answers", grpo_text),
    clean("prompts with answers in CSV", grpo_text, save=csv_file),
    clean("prompts with solutions", grpo_chat, save=parquet),
    clean("problems with truths", grpo_problem.as_method("rloo")),
    clean("asked messages with numbers", grpo_messages),
    changed("prompts alone", grpo_text, lambda i, row: {"prompt": row["prompt"], "answer_length": i}),
]  # fmt: skip

_LLAMA3 = fits(lambda: tokenizer_with(LLAMA3))
MODEL = [
    clean("conversations for a model", messages, model=_LLAMA3),
    clean("pairs for a model", pair_chat, model=_LLAMA3),
    clean("ranked messages for a model", ranking, model=_LLAMA3, save=parquet),
    clean("transcripts for a model", pair_hh, model=_LLAMA3),
    clean("labelled conversations for a model", kto_messages, model=_LLAMA3),
    clean("prompts for a model", grpo_chat, model=_LLAMA3),
    clean("Alpaca for a model", alpaca, model=_LLAMA3),
    Case("a held-out set of its own", "sft", messages.rows(24),
         evaluation=[messages.make(i) for i in range(50, 60)]),
]  # fmt: skip

CLEAN: list[Case] = [*CONVERSATIONS, *COLUMNS, *METHODS, *MODEL]
