"""What `tunesmith train` makes of data: the checks and the conversion of `validate`, before any weight."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import record_of, tunesmith
from test_validate_cli import distinct_chats
from tiny import _train_tokenizer, write_jsonl

from tunesmith.config.run_config import DatasetSource, RunConfig
from tunesmith.data.prepare import prepare_data
from tunesmith.data.preview import preview
from tunesmith.data.tokens import IGNORED_LABEL


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(model: Path, data: str, *more: str):
    return tunesmith(
        "train", "sft", "--model", str(model), "--dataset", data, "--max-steps", "2",
        "--global-batch-size", "4", "--set", "trl.report_to=none", *more,
    )  # fmt: skip


def as_format(rows: list[dict], name: str) -> list[dict]:
    """Chats of one question and one answer in another format."""
    sides = [[message["content"] for message in row["messages"]] for row in rows]
    makers = {
        "sharegpt": lambda q, a: {
            "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]
        },
        "alpaca": lambda q, a: {"instruction": q, "input": "", "output": a},
        "question-answer": lambda q, a: {"question": q, "answer": a},
        "messages": lambda q, a: {
            "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
        },
    }
    return [makers[name](*side) for side in sides]


@pytest.mark.parametrize("name", ["sharegpt", "alpaca", "question-answer"])
def test_other_formats_become_the_same_tokens_as_messages(name: str):
    tokenizer = _train_tokenizer(chat_template=True)
    rows = distinct_chats(6)
    made = []
    for each in ("messages", name):
        path = write_jsonl(Path(f"{each}.jsonl"), as_format(rows, each))
        made.append(prepare_data(RunConfig(model="m", dataset=str(path)), tokenizer))
    assert made[1].report.formats == {f"{name}.jsonl": name}
    assert made[0].report.fingerprint == made[1].report.fingerprint


def test_the_tokens_with_loss_that_are_shown_are_those_that_are_trained():
    tokenizer = _train_tokenizer(chat_template=True)
    path = write_jsonl(Path("chats.jsonl"), as_format(distinct_chats(5), "sharegpt"))
    trained = prepare_data(RunConfig(model="m", dataset=str(path)), tokenizer).train
    seen = preview(DatasetSource(path=str(path)), "sft", tokenizer, given={}, wanted=5, max_length=1024).rows
    for row, shown in zip(trained, seen, strict=True):
        learned = [label for label in row["labels"] if label != IGNORED_LABEL]
        assert shown.num_learned == len(learned)
        assert "".join(piece.text for piece in shown.pieces if piece.loss) == tokenizer.decode(learned)


def test_a_map_says_which_columns_are_which(tiny_model: Path):
    write_jsonl(Path("odd.jsonl"), [{"frage": f"Was ist {i}?", "antwort": f"{i} eben"} for i in range(8)])
    refused = train(tiny_model, "odd.jsonl", "--dry-run")
    assert refused.code == 2
    assert "--map user=COLUMN,assistant=COLUMN" in refused.err
    told = train(tiny_model, "odd.jsonl", "--dry-run", "--map", "user=frage,assistant=antwort")
    assert told.code == 0
    assert "odd.jsonl (question-answer)" in " ".join(told.err.split())
    Path("run.yaml").write_text(
        f"model: {tiny_model}\ndataset:\n"
        "  - path: odd.jsonl\n    map: {prompt: frage, completion: antwort}\n"
    )
    from_file = tunesmith("train", "sft", "run.yaml", "--max-steps", "2", "--dry-run", "--json")
    assert from_file.document["data"]["formats"] == {"odd.jsonl": "prompt-completion"}


def test_rows_that_can_not_be_trained_on_stop_it_before_anything_is_written(tiny_model: Path):
    rows = distinct_chats(8)
    rows[5]["messages"][1]["content"] = None
    rows[6]["messages"][0]["role"] = "usr"
    write_jsonl(Path("bad.jsonl"), rows)
    ran = train(tiny_model, "bad.jsonl")
    assert ran.code == 2
    assert "row 5: messages[1].content is null [D003], and 1 more finding" in ran.err
    assert "tunesmith validate bad.jsonl --method sft shows all" in ran.err
    assert not Path("runs").exists()


def test_allowed_rows_are_left_out_counted_and_the_rest_is_trained_on(tiny_model: Path):
    rows = distinct_chats(8)
    rows[5]["messages"][1]["content"] = None
    write_jsonl(Path("bad.jsonl"), rows)
    ran = train(tiny_model, "bad.jsonl", "--allow", "D003", "--run-dir", "run")
    assert ran.code == 0, ran.err
    data = record_of(Path("run"))["data"]
    assert (data["num_rows"], data["num_left_out"]) == (7, 1)
    assert any(note.startswith("D003 field is null: row 5") and "(allowed)" in note for note in data["notes"])
    unknown = train(tiny_model, "bad.jsonl", "--allow", "D999")
    assert unknown.code == 2
    assert "no code 'D999'" in unknown.err


def test_warnings_are_shown_and_kept(tiny_model: Path):
    rows = distinct_chats(8)
    rows[3] = rows[2]
    write_jsonl(Path("twice.jsonl"), rows)
    ran = train(tiny_model, "twice.jsonl", "--dry-run")
    assert ran.code == 0
    assert "D301 exact duplicates: row 3 is the same as row 2" in " ".join(ran.err.split())


def test_a_turn_of_weight_zero_is_not_learned():
    tokenizer = _train_tokenizer(chat_template=True)
    row = {"messages": [
        {"role": "user", "content": "One?"}, {"role": "assistant", "content": "Wrong.", "weight": 0},
        {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Right.", "weight": 1},
    ]}  # fmt: skip
    write_jsonl(Path("weights.jsonl"), [row])
    trained = prepare_data(RunConfig(model="m", dataset="weights.jsonl"), tokenizer).train
    learned = [label for label in trained[0]["labels"] if label != IGNORED_LABEL]
    assert tokenizer.decode(learned) == "Right.<|im_end|>"
