"""`tunesmith validate` and the script in front of it, as a person or a program runs them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from running import tunesmith
from tiny import chat_rows, write_jsonl

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `good.jsonl`, and `bad.jsonl` with a fault in rows 3, 7, 9 and 12."""
    rows = distinct_chats(20)
    write_jsonl(tmp_path / "good.jsonl", rows)
    rows[3]["messages"][-1]["content"] = None
    rows[7]["messages"][0]["role"] = "usr"
    rows[9] = rows[8]
    rows[12]["messages"][-1]["content"] += "\x00"
    write_jsonl(tmp_path / "bad.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def distinct_chats(number: int) -> list[dict]:
    """Chats that are no near duplicates of each other."""
    words = [f"{a}{b}" for a in "bcdfghklmnprst" for b in ("ar", "el", "in", "os", "um")]
    rows = []
    for index in range(number):
        said = [words[(index * 7 + step * (3 + index)) % len(words)] for step in range(12)]
        turns = [("user", f"What is {' '.join(said[:4])}?"), ("assistant", f"It is {' '.join(said[4:])}.")]
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    return rows


def test_a_clean_file_is_fit_and_exits_with_0():
    ran = tunesmith("validate", "good.jsonl")
    assert (ran.code, ran.err) == (0, "next:  tunesmith validate good.jsonl --method sft --model MODEL    "
                                      "checks template, tokens and max_length\n")  # fmt: skip
    assert ran.out.startswith("good.jsonl: 20 rows, read as messages for sft\n")
    assert ran.out.endswith("fit for sft: 0 errors, 0 warnings\n")


def test_a_bad_file_is_not_fit_exits_with_1_and_names_rows_fields_and_fixes():
    ran = tunesmith("validate", "bad.jsonl")
    assert ran.code == 1
    for line in (
        "error D003 field is null: 1",
        "  row 3, messages[1].content: is null",
        "  row 7, messages[0].role: is 'usr'; did you mean user?",
        "warning D301 exact duplicates: 1",
        "  row 9: is the same as row 8",
        "not fit for sft: 2 errors, 2 warnings",
    ):
        assert line in ran.out.splitlines(), ran.out
    assert "--fix clean.jsonl" in ran.err


def test_json_is_one_document_with_exact_counts():
    document = tunesmith("validate", "bad.jsonl", "--json").document
    assert document["status"] == "findings"
    assert document["command"] == "validate"
    assert document["counts"] == {"D003": 1, "D006": 1, "D016": 1, "D301": 1}
    assert (document["num_rows"], document["fit"], document["format"]) == (20, False, "messages")
    first = document["findings"][0]
    assert first == {
        "code": "D003", "level": "error", "row": 3, "field": "messages[1].content", "message": "is null",
        "fix": "fill it, or take the row out",
    }  # fmt: skip
    assert tunesmith("validate", "good.jsonl", "--json").document["status"] == "done"


def test_findings_are_limited_in_the_document_exact_in_the_counts_and_whole_in_the_file():
    rows = [{"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": f"a{i}"}]}
            for i in range(2500)]  # fmt: skip
    write_jsonl(Path("many.jsonl"), rows)
    document = tunesmith(
        "validate", "many.jsonl", "--json", "--findings", "all.jsonl", "--no-duplicates"
    ).document
    assert document["counts"] == {"D003": 2500}
    assert [each["row"] for each in document["findings"]] == list(range(1000))
    streamed = [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]
    assert [each["row"] for each in streamed] == list(range(2500))
    assert {each["code"] for each in streamed} == {"D003"}


def test_fix_writes_a_clean_copy_counts_what_it_did_and_leaves_the_original_alone():
    before = Path("bad.jsonl").read_bytes()
    ran = tunesmith("validate", "bad.jsonl", "--fix", "clean.jsonl", "--json")
    assert ran.code == 1
    assert ran.document["fixed"] == {
        "num_rows": 17, "dropped": {"D003": 1, "D006": 1, "D301": 1}, "repaired": {"D016": 1},
        "converted": False,
    }  # fmt: skip
    assert Path("bad.jsonl").read_bytes() == before
    again = tunesmith("validate", "clean.jsonl", "--json").document
    assert (again["fit"], again["counts"], again["num_rows"]) == (True, {}, 17)


def test_fix_converts_to_the_standard_columns():
    said = [("human", "What is {}?"), ("gpt", "{} it is"), ("human", "And?")]
    rows = [
        {"conversations": [{"from": who, "value": words.format(i)} for who, words in said]} for i in range(4)
    ]
    write_jsonl(Path("sharegpt.jsonl"), rows)
    fixed = tunesmith("validate", "sharegpt.jsonl", "--fix", "clean.jsonl", "--json").document["fixed"]
    assert fixed == {"num_rows": 4, "dropped": {}, "repaired": {"D009": 4}, "converted": True}
    first = json.loads(Path("clean.jsonl").read_text().splitlines()[0])
    assert first == {
        "messages": [{"role": "user", "content": "What is 0?"}, {"role": "assistant", "content": "0 it is"}]
    }


def test_fix_never_writes_over_anything():
    for name, says in (
        ("bad.jsonl", "exists already"),
        ("out.csv", "writes JSON lines"),
        ("no/x.jsonl", "no folder"),
    ):
        ran = tunesmith("validate", "good.jsonl", "--fix", name)
        assert ran.code == 2
        assert says in ran.err


def test_a_guess_is_shown_with_its_evidence_and_can_be_overridden():
    rows = [{"question": f"What is {i}?", "answer": f"{i}, of course", "source": "x"} for i in range(5)]
    write_jsonl(Path("qa.jsonl"), rows)
    guessed = tunesmith("validate", "qa.jsonl", "--json").document
    assert guessed["format"] == "question-answer"
    assert guessed["map"] == {"user": "question", "assistant": "answer"}
    assert guessed["evidence"] == [
        "column question is the user's turn",
        "column answer is the assistant's turn",
    ]
    told = tunesmith(
        "validate", "qa.jsonl", "--json", "--map", "prompt=question", "--map", "completion=answer"
    )
    assert told.document["format"] == "prompt-completion"
    assert told.document["map"] == {"prompt": "question", "completion": "answer"}
    assert "as given: prompt is question, completion is answer" in told.document["evidence"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.jsonl"], "there is no file or folder nowhere.jsonl"),
        (["good.jsonl", "--method", "dpoo"], "there is no method 'dpoo'"),
        (["good.jsonl", "--map", "question"], "should be slot=column"),
        (["good.jsonl", "--map", "promt=messages"], "there is no slot 'promt'"),
        (["good.jsonl", "--map", "prompt=question"], "there is no column 'question'"),
        (["good.jsonl", "--allow", "D999"], "there is no code 'D999'"),
        (["good.jsonl", "--shard", "4/4"], "--shard '4/4' should be I/N"),
        (["good.jsonl", "--shard", "1/2", "--fix", "x.jsonl"], "--fix doesn't go with --shard"),
        (["good.jsonl", "bad.jsonl"], "one data set at a time"),
        (["good.jsonl", "--merge"], "is no shard that can be merged"),
        (["good.jsonl", "--chat-template", "chatml"], "--chat-template needs --model"),
        (["good.jsonl", "--model", "./none"], "there is no folder ./none"),
        (["good.jsonl", "--reward", "r.py:f"], "--reward is for grpo and rloo"),
        (["good.jsonl", "--method", "grpo", "--reward", "none.py:f"], "none.py"),
        (["good.jsonl", "--html", "no/report.html"], "there is no folder no"),
        (["good.jsonl", "--split", "test"], "there is no split 'test'"),
    ],
)  # fmt: skip
def test_wrong_usage_is_a_sentence_with_exit_code_2(arguments: list[str], says: str):
    ran = tunesmith("validate", *arguments)
    assert ran.code == 2, ran.err
    assert says in ran.err
    assert "  next: " in ran.err
    assert "Traceback" not in ran.err


def test_an_empty_data_set_is_a_finding():
    Path("empty.json").write_text("[]")
    ran = tunesmith("validate", "empty.json", "--json")
    assert (ran.code, ran.document["counts"]) == (1, {"D306": 1})


def test_columns_of_another_method_name_the_one_that_fits():
    write_jsonl(Path("pairs.jsonl"), [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(3)])
    ran = tunesmith("validate", "pairs.jsonl")
    assert ran.code == 1
    assert "sft needs messages" in ran.out
    assert "they fit dpo" in ran.out
    assert tunesmith("validate", "pairs.jsonl", "--method", "dpo", "--no-duplicates").code == 0


def test_an_allowed_error_does_not_make_the_data_unfit():
    write_jsonl(Path("one.jsonl"), [*distinct_chats(5), {"messages": None}])
    assert tunesmith("validate", "one.jsonl").code == 1
    ran = tunesmith("validate", "one.jsonl", "--allow", "D003")
    assert ran.code == 0
    assert "error D003 field is null: 1 (allowed)" in ran.out


def test_a_secret_is_reported_masked_and_never_printed_anywhere():
    rows = distinct_chats(5)
    secret = "hf_" + "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xYzA"
    rows[2]["messages"][1]["content"] += f" My token is {secret}."
    rows[2]["messages"][0]["role"] = "usr"  # an error that would show the row as an example
    write_jsonl(Path("secret.jsonl"), rows)
    ran = tunesmith("validate", "secret.jsonl", "--html", "page.html", "--findings", "all.jsonl")
    assert "row 2, messages[1].content: holds what looks like a Hugging Face token: hf_" in ran.out
    for text in (ran.out, ran.err, Path("page.html").read_text(), Path("all.jsonl").read_text()):
        assert secret not in text
        assert secret[3:15] not in text


def test_shards_are_merged_to_what_the_whole_gives():
    for index in range(3):
        ran = tunesmith("validate", "bad.jsonl", "--shard", f"{index}/3")
        assert ran.code == 0
        assert ran.out == f"bad.jsonl.shard-{index}-of-3.npz\n"
    merged = tunesmith("validate", "--merge", *sorted(map(str, Path().glob("*.npz"))), "--json")
    whole = tunesmith("validate", "bad.jsonl", "--json")
    assert merged.code == whole.code == 1
    assert {**merged.document, "data": ""} == {**whole.document, "data": ""}


def test_with_a_model_the_tokens_are_counted_and_what_max_length_costs_is_said(tiny_model: Path):
    ran = tunesmith("validate", "good.jsonl", "--model", str(tiny_model), "--json")
    tokens = ran.document["tokens"]
    assert ran.code == 0
    assert tokens["num_rows_read"] == 20
    assert not tokens["sampled"]
    assert 0 < tokens["num_loss_tokens"] < tokens["total"]
    keep = tokens["max_length_to_keep"]
    assert keep["95"] <= keep["99"] <= keep["100"] == tokens["max"]
    short = tunesmith("validate", "good.jsonl", "--model", str(tiny_model), "--max-length", "30", "--json")
    assert short.code == 1
    assert short.document["counts"]["D207"] == 1
    enough = tunesmith("validate", "good.jsonl", "--model", str(tiny_model), "--max-length", str(keep["100"]))
    assert enough.code == 0


def test_a_sample_of_rows_is_seeded_and_said(tiny_model: Path):
    write_jsonl(Path("more.jsonl"), distinct_chats(60))
    arguments = ["validate", "more.jsonl", "--model", str(tiny_model), "--token-rows", "15", "--json"]
    first, second = tunesmith(*arguments).document["tokens"], tunesmith(*arguments).document["tokens"]
    assert first == second
    assert first["sampled"]
    assert 3 < first["num_rows_read"] < 40


def test_reward_functions_are_called_on_the_rows():
    Path("rewards.py").write_text(
        "def exact(completions, answer, **kwargs):\n"
        "    return [float(c == a) for c, a in zip(completions, answer, strict=True)]\n"
        "def broken(completions, missing, **kwargs):\n    return [0.0] * len(completions)\n"
    )
    write_jsonl(Path("sums.jsonl"), [{"prompt": f"{i} + {i}?", "answer": str(2 * i)} for i in range(12)])
    good = tunesmith("validate", "sums.jsonl", "--method", "grpo", "--reward", "rewards.py:exact", "--json")
    assert good.code == 0, good.document["findings"]
    assert good.document["rewards"][0]["maximum"] == 1.0
    bad = tunesmith("validate", "sums.jsonl", "--method", "grpo", "--reward", "rewards.py:broken", "--json")
    assert bad.code == 1
    assert "D501" in bad.document["counts"]
    assert any("missing" in each["message"] for each in bad.document["findings"])


def test_rows_are_not_taken_out_for_the_faults_of_a_reward():
    Path("rewards.py").write_text(
        "def picky(completions, answer, **kwargs):\n"
        "    return [None if a == '8' else float(a in c) for c, a in zip(completions, answer)]\n"
        "def odd(completions, answer, **kwargs):\n"
        "    return [float('nan') if a == '8' else len(c) for c, a in zip(completions, answer)]\n"
        "def brittle(completions, answer, **kwargs):\n"
        "    return [len(c) / (int(a) - 8) for c, a in zip(completions, answer)]\n"
    )
    write_jsonl(Path("sums.jsonl"), [{"prompt": f"{i} + {i}?", "answer": str(2 * i)} for i in range(12)])
    for name, code in {"picky": "D106", "odd": "D503", "brittle": "D501"}.items():
        command = ("validate", "sums.jsonl", "--method", "grpo", "--reward", f"rewards.py:{name}")
        ran = tunesmith(*command)
        assert (ran.code, code in ran.out) == (1, True), ran.out
        assert f"next:  tunesmith {' '.join(command)}    again, once that is mended" in ran.err
        fixed = tunesmith(*command, "--fix", f"{name}.jsonl", "--json").document["fixed"]
        assert (fixed["num_rows"], fixed["dropped"]) == (12, {})
    ran = tunesmith("validate", "sums.jsonl", "--method", "grpo", "--reward", "rewards.py:brittle")
    assert "row 4, reward rewards.py:brittle: raises ZeroDivisionError" in ran.out
    assert "(rewards.py:6)" in ran.out
    assert "  mend that line; what it can't judge may get 0 or None" in ran.out.splitlines()


def test_rows_with_faults_of_their_own_are_still_taken_out_beside_a_broken_reward():
    Path("rewards.py").write_text("def broken(completions, **kwargs):\n    return None\n")
    rows = [{"prompt": f"{i} + {i}?", "answer": str(2 * i)} for i in range(12)]
    write_jsonl(Path("sums.jsonl"), [*rows, {"prompt": None, "answer": "1"}])
    ran = tunesmith("validate", "sums.jsonl", "--method", "grpo", "--reward", "rewards.py:broken")
    assert "returns None for 12 completions, not a list of 12 numbers" in ran.out
    assert "--fix clean.jsonl    writes a copy without those rows" in ran.err


def test_a_file_without_a_row_that_can_be_read_is_not_said_to_have_other_columns():
    Path("broken.jsonl").write_text('{"prompt": "a')
    ran = tunesmith("validate", "broken.jsonl", "--method", "dpo")
    assert (ran.code, ran.err) == (1, "")
    assert "row 0: is no JSON: unterminated string" in ran.out
    for shard in ("--shard", "0/2"), ("--eval-dataset", "broken.jsonl"):
        data = "broken.jsonl" if shard[0] == "--shard" else "good.jsonl"
        ran = tunesmith("validate", data, *shard)
        assert ran.code == 2
        assert "row 0 is no JSON: unterminated string starting at position 11 [D001]" in ran.err


def test_columns_that_look_like_a_pair_are_named_in_the_next_line():
    write_jsonl(Path("pairs.jsonl"), [{"prompt": f"p{i}", "good": "a", "bad": "b"} for i in range(3)])
    ran = tunesmith("validate", "pairs.jsonl", "--method", "dpo")
    assert "they fit" not in ran.out
    command = "tunesmith validate pairs.jsonl --method dpo --map chosen=good,rejected=bad"
    assert f"next:  {command}    a guess from their names" in ran.err
    assert tunesmith(*command.split()[1:], "--no-duplicates").code == 0


def test_leakage_from_evaluation_data_is_found():
    rows = distinct_chats(12)
    write_jsonl(Path("train.jsonl"), rows[:10])
    write_jsonl(Path("held.jsonl"), [rows[10], rows[4], rows[11]])
    ran = tunesmith("validate", "train.jsonl", "--eval-dataset", "held.jsonl", "--json")
    assert ran.code == 1
    [leak] = [each for each in ran.document["findings"] if each["code"] == "D303"]
    assert leak["row"] == 1
    assert "row 4" in leak["message"]


def test_parquet_and_jsonl_of_the_same_rows_say_the_same():
    import datasets

    datasets.Dataset.from_list(distinct_chats(30)).to_parquet("rows.parquet")
    assert pq.ParquetFile("rows.parquet").metadata.num_rows == 30
    write_jsonl(Path("rows.jsonl"), distinct_chats(30))
    one, other = (tunesmith("validate", f"rows.{kind}", "--json").document for kind in ("parquet", "jsonl"))
    assert {**one, "data": ""} == {**other, "data": ""}


def test_the_script_is_a_door_to_the_command(capsys: pytest.CaptureFixture[str]):
    spec = importlib.util.spec_from_file_location("door", ROOT / "scripts" / "validate_dataset.py")
    assert spec is not None
    assert spec.loader is not None
    door = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(door)
    assert door.main(["good.jsonl", "sft"]) == 0
    assert door.main(["bad.jsonl", "sft", "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["counts"]["D003"] == 1
    assert door.main(["good.jsonl", "dpo"]) == 1
    assert door.main([]) == 2


def test_chat_rows_of_the_other_tests_are_fit():
    write_jsonl(Path("chats.jsonl"), chat_rows(8))
    assert tunesmith("validate", "chats.jsonl").code == 0


def test_in_a_folder_of_files_the_file_and_its_row_are_named():
    folder = Path("both")
    folder.mkdir()
    rows = distinct_chats(9)
    write_jsonl(folder / "a.jsonl", rows[:5])
    write_jsonl(folder / "b.jsonl", [rows[5], {"messages": None}, *rows[6:]])
    ran = tunesmith("validate", "both")
    assert ran.code == 1
    assert f"  {(folder / 'b.jsonl').absolute()}, row 1, messages: is null" in ran.out.splitlines()
    document = tunesmith("validate", "both", "--json").document
    assert list(document["files"].values()) == [0, 5]


def test_fix_says_that_it_converted_only_where_it_did():
    assert tunesmith("validate", "good.jsonl", "--fix", "same.jsonl", "--json").document["fixed"] == {
        "num_rows": 20, "dropped": {}, "repaired": {}, "converted": False,
    }  # fmt: skip
    sides = [("yes indeed", "no"), ("of course", "never")]
    rows = [
        {
            name: [{"role": "user", "content": f"Number {i}?"}, {"role": "assistant", "content": said}]
            for name, said in zip(("chosen", "rejected"), side, strict=True)
        }
        for i, side in enumerate(sides)
    ]
    write_jsonl(Path("implicit.jsonl"), rows)
    ran = tunesmith("validate", "implicit.jsonl", "--method", "dpo", "--fix", "pairs.jsonl", "--json")
    assert ran.document["fixed"]["converted"]
    assert json.loads(Path("pairs.jsonl").read_text().splitlines()[0]) == {
        "prompt": [{"role": "user", "content": "Number 0?"}],
        "chosen": [{"role": "assistant", "content": "yes indeed"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }


def test_no_output_is_written_over_what_is_read():
    before = Path("good.jsonl").read_bytes()
    for option in ("--findings", "--html"):
        ran = tunesmith("validate", "good.jsonl", option, "good.jsonl")
        assert ran.code == 2
        assert "would write over what is read" in ran.err
    assert Path("good.jsonl").read_bytes() == before
    twice = tunesmith("validate", "good.jsonl", "--findings", "x", "--html", "x")
    assert twice.code == 2


def test_a_missing_a_doubled_and_a_differing_shard_are_refused(tiny_model: Path):
    for index in range(2):
        tunesmith("validate", "good.jsonl", "--shard", f"{index}/2", "--out", f"{index}.npz")
    tunesmith("validate", "good.jsonl", "--shard", "1/2", "--out", "odd.npz", "--no-duplicates")
    for given, says in {
        ("0.npz",): "shard 1 of 2 is missing",
        ("0.npz", "0.npz", "1.npz"): "a shard is given twice",
        ("0.npz", "odd.npz"): "checked in different ways",
        ("bad.jsonl",): "is no shard that can be merged",
    }.items():
        ran = tunesmith("validate", "--merge", *given)
        assert ran.code == 2
        assert says in ran.err
    ran = tunesmith("validate", "--merge", "0.npz", "1.npz", "--model", str(tiny_model))
    assert ran.code == 2
    assert "without a model" in ran.err


def test_shards_checked_with_a_model_are_concluded_with_it(tiny_model: Path):
    model = ("--model", str(tiny_model), "--max-length", "30")
    for index in range(2):
        tunesmith("validate", "good.jsonl", "--shard", f"{index}/2", *model)
    paths = sorted(map(str, Path().glob("good*.npz")))
    assert "add --model" in tunesmith("validate", "--merge", *paths).err
    merged = tunesmith("validate", "--merge", *paths, *model, "--json")
    whole = tunesmith("validate", "good.jsonl", *model, "--json")
    assert merged.code == whole.code == 1
    assert merged.document == whole.document
    assert merged.document["counts"]["D207"] == 1


def test_a_shard_file_holds_no_text_of_the_rows():
    rows = distinct_chats(12)
    rows[4]["messages"][1]["content"] += " Remember the word quizzaciously."
    write_jsonl(Path("text.jsonl"), rows)
    tunesmith("validate", "text.jsonl", "--shard", "0/1", "--out", "s.npz")
    assert b"quizzaciously" not in Path("s.npz").read_bytes()


def test_rows_that_differ_in_history_label_turns_or_columns_are_no_copies():
    alike = {
        "sft": [
            {"instruction": "And then?", "input": "", "output": "Yes.", "history": [["One?", "Two."]]},
            {"instruction": "And then?", "input": "", "output": "Yes.", "history": [["Six?", "Ten."]]},
        ],
        "kto": [
            {"prompt": "Why is it so?", "completion": "It is so.", "label": each} for each in (True, False)
        ],
        "grpo": [{"prompt": "Write a function.", "tests": each} for each in ("assert f(1)", "assert f(2)")],
    }
    for method, rows in alike.items():
        write_jsonl(Path(f"{method}.jsonl"), rows)
        counts = tunesmith("validate", f"{method}.jsonl", "--method", method, "--json").document["counts"]
        assert "D301" not in counts, method


def test_what_is_dropped_and_repaired_leaves_nothing_to_refuse():
    said = {"role": "user", "content": "Why is it so?"}, {"role": "assistant", "content": "It is so."}
    trailing = [*said, {"role": "user", "content": "Bye"}]
    echo = [said[0], {"role": "assistant", "content": said[0]["content"]}]
    pairs = [{"chosen": trailing, "rejected": list(said)}, {"chosen": list(said), "rejected": echo}]
    write_jsonl(Path("pairs.jsonl"), pairs)
    ran = tunesmith("validate", "pairs.jsonl", "--method", "dpo", "--fix", "clean.jsonl", "--json")
    assert ran.document["counts"]["D101"] == 1
    again = tunesmith("validate", "clean.jsonl", "--method", "dpo", "--json").document
    assert again["fit"]
    assert again["num_rows"] == 1


def test_a_system_column_and_tools_are_kept_by_the_conversion():
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    cases = {
        "sft": ({"system": "Be brief.", "prompt": "Why?", "completion": "So."}, "messages"),
        "dpo": ({"system": "Be brief.", "prompt": "Why?", "chosen": "So.", "rejected": "No."}, "prompt"),
        "grpo": ({"prompt": [{"role": "user", "content": "Why?"}], "tools": [tool]}, "prompt"),
    }
    for method, (row, column) in cases.items():
        write_jsonl(Path(f"{method}.jsonl"), [row])
        tunesmith("validate", f"{method}.jsonl", "--method", method, "--fix", f"{method}-clean.jsonl")
        clean = json.loads(Path(f"{method}-clean.jsonl").read_text())
        if "system" in row:
            assert clean[column][0] == {"role": "system", "content": "Be brief."}
        else:
            assert clean["tools"] == [tool]


def test_images_beside_the_text_are_pointed_out():
    row = {**distinct_chats(1)[0], "images": ["a.png"]}
    write_jsonl(Path("images.jsonl"), [row])
    assert tunesmith("validate", "images.jsonl", "--json").document["counts"] == {"D014": 1}


def test_a_part_that_the_rows_have_no_place_for_is_refused():
    write_jsonl(Path("alpaca.jsonl"), [{"instruction": "Why?", "output": "So.", "fns": "[]"}])
    ran = tunesmith("validate", "alpaca.jsonl", "--map", "label=fns")
    assert ran.code == 2
    assert "label has no place in alpaca rows of sft" in ran.err


def test_secrets_in_tool_calls_and_thoughts_are_found_and_in_messages_of_findings_not_shown():
    secret = "hf_" + "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xYzA"
    rows = distinct_chats(3)
    rows[0]["messages"][1]["reasoning_content"] = f"The key is {secret}."
    rows[1]["messages"][0]["role"] = secret
    write_jsonl(Path("hidden.jsonl"), rows)
    ran = tunesmith("validate", "hidden.jsonl")
    assert "row 0, messages[1].reasoning_content: holds what looks like a Hugging Face token" in ran.out
    assert "row 1, messages[0].role: is at fault; it holds what looks like a secret" in ran.out
    assert secret not in ran.out


def test_fix_of_hopeless_data_still_shows_the_report():
    write_jsonl(Path("hopeless.jsonl"), [{"messages": None}] * 3)
    ran = tunesmith("validate", "hopeless.jsonl", "--fix", "clean.jsonl")
    assert ran.code == 1
    assert "error D003 field is null: 3" in ran.out
    assert "no clean copy: no row would stay" in ran.err
    assert not Path("clean.jsonl").exists()


def test_the_next_line_keeps_the_options():
    write_jsonl(Path("my data.jsonl"), [{"Frage": f"Was ist {i}?", "Antwort": f"{i} eben"} for i in range(3)])
    ran = tunesmith("validate", "my data.jsonl", "--map", "user=Frage", "--map", "assistant=Antwort")
    assert (
        "next:  tunesmith validate 'my data.jsonl' --method sft --map user=Frage --map assistant=Antwort "
        "--model" in ran.err
    )


def test_a_folder_of_files_that_would_be_passed_over_is_refused():
    folder = Path("mixed")
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", distinct_chats(3))
    (folder / "b.csv").write_text("question,answer\nWhy?,So.\n")
    ran = tunesmith("validate", "mixed")
    assert ran.code == 2
    assert "would not be read" in ran.err


def test_a_prompt_beside_whole_conversations_is_said_to_be_passed_over():
    asked, answer = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
    other = {"role": "assistant", "content": "No."}
    write_jsonl(
        Path("ultra.jsonl"), [{"prompt": "Why?", "chosen": [asked, answer], "rejected": [asked, other]}]
    )
    document = tunesmith("validate", "ultra.jsonl", "--method", "dpo", "--json").document
    assert document["fit"]
    assert any("column prompt is not read" in said for said in document["evidence"])


def test_fix_keeps_rows_whose_code_was_allowed_however_the_codes_are_given():
    answers = (("So.", "So."), ("So.", "No."))
    rows = [{"question": "Why?", "chosen": chosen, "rejected": rejected} for chosen, rejected in answers]
    write_jsonl(Path("same.jsonl"), rows)
    for index, allow in enumerate((["D101,D102"], ["D102", "D101"])):
        given = [part for code in allow for part in ("--allow", code)]
        ran = tunesmith(
            "validate", "same.jsonl", "--method", "dpo", *given, "--fix", f"{index}.jsonl", "--json"
        )
        assert ran.code == 0
        assert ran.document["fixed"]["num_rows"] == 2
