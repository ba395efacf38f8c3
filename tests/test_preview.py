"""`tunesmith preview`: rows as the trainer sees them, in a pipe and in a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from encoding import encode, learned
from running import tunesmith
from templates import LLAMA3, tokenizer_with
from test_validate_cli import distinct_chats
from tiny import chat_rows, write_jsonl

from tunesmith.config.run_config import DatasetSource
from tunesmith.data.preview import preview
from tunesmith.data.token_rows import LENGTH


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_jsonl(tmp_path / "chats.jsonl", chat_rows(8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_pipe_gets_the_text_with_the_learned_parts_in_brackets(tiny_model: Path):
    ran = tunesmith("preview", "chats.jsonl", "--model", str(tiny_model), "-n", "1")
    answer = chat_rows(1)[0]["messages"][-1]["content"]
    assert ran.code == 0
    assert f"⟦{answer}<|im_end|>⟧" in ran.out
    assert "<|im_start|>user\n" in ran.out
    assert ran.out.count("⟦") == 1
    assert "\x1b" not in ran.out
    assert "carries loss" in ran.err


def test_a_terminal_gets_colours(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    ran = tunesmith("preview", "chats.jsonl", "--model", str(tiny_model), "-n", "1")
    assert "\x1b[" in ran.out
    assert "⟦" not in ran.out


def test_json_has_the_pieces_and_the_counts(tiny_model: Path):
    ran = tunesmith(
        "preview", "chats.jsonl", "--model", str(tiny_model), "--row", "3", "--row", "1", "--json"
    )
    rows = ran.document["rows"]
    assert [row["row"] for row in rows] == [1, 3]
    assert all(0 < row["num_learned"] < row["num_tokens"] for row in rows)
    assert {"text", "loss", "special", "cut"} == rows[0]["pieces"][0].keys()


@pytest.mark.parametrize("answer", ["Blue.", "Grüße 🙂🙂 aus 京都", "two\nlines", "🙂"])
def test_the_pieces_are_the_text_and_the_loss_is_where_the_trainer_puts_it(answer: str):
    tokenizer = tokenizer_with(LLAMA3)
    row = {"messages": [{"role": "user", "content": "é🙂?"}, {"role": "assistant", "content": answer}]}
    write_jsonl(Path("one.jsonl"), [row])
    [seen] = preview(
        DatasetSource(path="one.jsonl"), "sft", tokenizer, given={}, wanted=1, max_length=1024
    ).rows
    assert "".join(piece.text for piece in seen.pieces) == tokenizer.apply_chat_template(
        row["messages"], tokenize=False
    )
    assert ["".join(piece.text for piece in seen.pieces if piece.loss)] == learned(tokenizer, row)
    assert seen.num_tokens == encode(tokenizer, [row])[LENGTH][0]


def test_a_pair_shows_chosen_and_rejected(tiny_model: Path):
    write_jsonl(Path("pairs.jsonl"), [{"question": "Why?", "chosen": "So it is.", "rejected": "No."}])
    ran = tunesmith("preview", "pairs.jsonl", "--method", "dpo", "--model", str(tiny_model))
    assert "row 0, chosen: " in ran.out
    assert "⟦So it is.<|im_end|>⟧" in ran.out
    assert "⟦No.<|im_end|>⟧" in ran.out


def test_a_row_that_can_not_be_trained_on_shows_its_fault(tiny_model: Path):
    write_jsonl(Path("bad.jsonl"), [{"messages": None}, *distinct_chats(2)])
    ran = tunesmith("preview", "bad.jsonl", "--model", str(tiny_model))
    assert ran.code == 0
    assert "row 0: row 0, messages: is null" not in ran.out
    assert "row 0: messages: is null" in ran.out
    assert "⟦" in ran.out


def test_rows_beyond_max_length_say_what_is_cut(tiny_model: Path):
    ran = tunesmith("preview", "chats.jsonl", "--model", str(tiny_model), "--max-length", "10", "-n", "1")
    assert "beyond max_length are cut" in ran.out
    assert "✂ max_length cuts here ✂" in ran.out
    row = tunesmith(
        "preview", "chats.jsonl", "--model", str(tiny_model), "--max-length", "10", "-n", "1", "--json"
    ).document["rows"][0]
    assert row["num_learned"] == 0
    assert not any(piece["loss"] for piece in row["pieces"] if piece["cut"])


def test_a_seed_takes_rows_from_anywhere_and_the_same_ones_again(tiny_model: Path):
    arguments = ["preview", "chats.jsonl", "--model", str(tiny_model), "--seed", "5", "-n", "3", "--json"]
    first, second = tunesmith(*arguments).document["rows"], tunesmith(*arguments).document["rows"]
    assert first == second
    assert [row["row"] for row in first] != [0, 1, 2]


def test_without_a_model_or_without_rows_it_says_what_to_do(tiny_model: Path):
    ran = tunesmith("preview", "chats.jsonl")
    assert ran.code == 2
    assert "preview needs the model" in ran.err
    none = tunesmith("preview", "chats.jsonl", "--model", str(tiny_model), "--row", "99")
    assert none.code == 2
    assert "there is no row 99: rows are numbered from 0 to 7" in none.err
