"""What is wrong with a method's input is said at the start, in a sentence, before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from method_data import options_for, write_method_data
from running import Ran, tunesmith
from tiny import write_jsonl, write_tiny_model


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_method_data(tmp_path, 8)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the same architecture and another vocabulary."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_tiny_model(tmp_path_factory.mktemp("stranger") / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<word {i}>" for i in range(40)])
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.random.fork_rng():
        model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(method: str, model: Path, *options: str) -> Ran:
    return tunesmith("train", *options_for(method, model), *options)


def without(option: str, arguments: list[str]) -> list[str]:
    at = arguments.index(option)
    return arguments[:at] + arguments[at + 2 :]


def refused(ran: Ran, *said: str, code: str | None = None) -> None:
    """It ended with a sentence that says all this, and left nothing behind."""
    assert ran.code == 2, ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert "next: " in ran.err
    message = " ".join(ran.err.partition("error: ")[2].split())
    for each in said:
        assert each in message, message
    if code:
        assert f"[{code}]" in message, message
    assert not Path("runs").exists()


def questionless_pairs(path: str) -> None:
    rows = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    write_jsonl(
        Path(path), [{side: row[side][0]["content"] for side in ("chosen", "rejected")} for row in rows]
    )


@pytest.mark.parametrize("method", ["dpo", "ipo", "orpo", "cpo", "simpo"])
def test_pairs_without_a_prompt_are_refused(tiny_model: Path, method: str):
    questionless_pairs("answers.jsonl")
    refused(train(method, tiny_model, "--dataset", "answers.jsonl"), "prompt", code="D108")


def test_a_reward_model_learns_of_pairs_without_a_prompt(tiny_model: Path):
    questionless_pairs("answers.jsonl")
    ran = train("reward", tiny_model, "--dataset", "answers.jsonl")
    assert ran.code == 0, ran.err


def test_one_label_only_is_refused_for_kto(tiny_model: Path):
    rows = [json.loads(line) for line in Path("labelled.jsonl").read_text().splitlines()]
    write_jsonl(Path("good.jsonl"), [{**row, "label": True} for row in rows])
    refused(train("kto", tiny_model, "--dataset", "good.jsonl"), "label", code="D105")


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (("--global-batch-size", "1"), "where: flag --global-batch-size"),
        (("--set", "trl.per_device_train_batch_size=1"), "where: flag --set trl.per_device_train_batch_size"),
    ],
)
def test_kto_needs_two_rows_at_a_time(tiny_model: Path, options: tuple[str, ...], where: str):
    refused(train("kto", tiny_model, *options), "it needs 2 at a time", where)


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_a_batch_that_holds_no_whole_number_of_groups_is_refused_with_one_that_does(
    tiny_model: Path, method: str
):
    ran = train(method, tiny_model, "--num-generations", "3", "--global-batch-size", "8")
    refused(ran, "global_batch_size 8 holds no whole number of groups: num_generations is 3", "to 9")
    ran = train(method, tiny_model, "--num-generations", "8", "--global-batch-size", "4")
    refused(ran, "global_batch_size 4 holds no whole number of groups", "to 8")


@pytest.mark.parametrize(("method", "size", "num_prompts", "enough"), [
    ("grpo", "20", 10, 16), ("rloo", "20", 10, 16), ("gspo", "6", 12, 4), ("dapo", "6", 12, 4),
])  # fmt: skip
def test_fewer_prompts_than_are_answered_at_a_time_are_refused(
    tiny_model: Path, method: str, size: str, num_prompts: int, enough: int
):
    ran = train(method, tiny_model, "--global-batch-size", size)
    refused(ran, f"there are 8 prompts, and {num_prompts} are answered at a time", f"to {enough} or less")
    again = train(method, tiny_model, "--global-batch-size", str(enough), "--max-steps", "1")
    assert again.code == 0, again.err


def test_fewer_prompts_than_a_step_of_distillation_answers_are_refused(tiny_model: Path):
    ran = train("distillation", tiny_model, "--global-batch-size", "9")
    refused(ran, "there are 8 prompts, and a step answers 9", "set global_batch_size to 8 or less")


@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "dapo", "gspo", "rloo"])
def test_a_run_without_a_reward_is_refused(tiny_model: Path, method: str):
    ran = tunesmith("train", *without("--rewards", options_for(method, tiny_model)))
    refused(ran, f"{method} needs a reward to learn from", "--rewards numeric_answer")


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ("numeric_anwser", "did you mean numeric_answer?"),
        ("rewards.py:shrot", "it has short"),
        ("nowhere.py:short", "there is no file nowhere.py"),
        ("rewards.py", "FILE.py:FUNCTION"),
        ("no_such_package:score", "there is no module no_such_package"),
    ],
)
def test_a_reward_that_is_not_there_is_refused_with_what_is(tiny_model: Path, reward: str, said: str):
    refused(train("grpo", tiny_model, "--rewards", reward), said)


def test_a_reward_without_its_column_is_refused_with_a_map_that_works(tiny_model: Path):
    rows = [json.loads(line) for line in Path("prompts.jsonl").read_text().splitlines()]
    write_jsonl(Path("renamed.jsonl"), [{"prompt": row["prompt"], "result": row["answer"]} for row in rows])
    options = ("--dataset", "renamed.jsonl", "--rewards", "exact_answer")
    refused(
        train("grpo", tiny_model, *options),
        "reward exact_answer: finds no column with reference answers (columns of the data: result) [D501]",
        "name it: --map reference=COLUMN",
    )
    ran = train("grpo", tiny_model, *options, "--map", "reference=result", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    [tried] = ran.document["data"]["reward_trials"]
    assert (tried["reference_column"], tried["maximum"]) == ("result", 1)
    assert tried["mean_by_completion"]["an empty completion"] == 0
    asked = train("grpo", tiny_model, "--dataset", "renamed.jsonl", "--rewards", "reasoning_gym")
    refused(asked, "judges only rows that reasoning-gym made", "use dataset: reasoning_gym:TASK", code="D501")


def test_a_reward_that_raises_is_refused_with_the_line_of_its_file(tiny_model: Path):
    Path("raises.py").write_text("def raises(completions, **kwargs):\n    return [{}['colour']]\n")
    ran = train("grpo", tiny_model, "--rewards", "raises.py:raises")
    refused(ran, "reward raises: raises KeyError: 'colour' (raises.py:2) on every completion", code="D501")


def test_distillation_without_a_teacher_is_refused(tiny_model: Path):
    ran = tunesmith("train", *without("--teacher-model", options_for("distillation", tiny_model)))
    refused(ran, "distillation needs a model to learn from", "--teacher-model OWNER/NAME")


def test_a_teacher_that_is_not_there_is_refused(tiny_model: Path):
    refused(train("distillation", tiny_model, "--teacher-model", "nowhere/teacher"), "nowhere/teacher")


def test_a_teacher_with_another_vocabulary_is_refused(tiny_model: Path, stranger: Path):
    ran = train("distillation", tiny_model, "--teacher-model", str(stranger))
    refused(ran, "teacher", "vocabular")
    assert "loading the model" not in ran.err
    assert "--dry-run" not in ran.err


def test_a_teacher_whose_tokens_have_other_ids_is_refused(tiny_model: Path, tmp_path: Path):
    shutil.copytree(tiny_model, tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    letters = [token for token in vocabulary if len(token) == 1 and token.isalpha()]
    turned = dict(zip(letters, (vocabulary[token] for token in reversed(letters)), strict=True))
    tokenizer["model"]["vocab"] = vocabulary | turned
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    ran = train("distillation", tiny_model, "--teacher-model", str(tmp_path / "other"))
    refused(ran, "teacher", "tokenizer")


@pytest.mark.parametrize(("method", "noted"), [
    ("dpo", True), ("ipo", True), ("kto", True), ("cpo", True), ("simpo", True), ("orpo", False),
])  # fmt: skip
def test_preferences_for_a_base_model_are_noted_not_refused(tmp_path: Path, method: str, noted: bool):
    bare = write_tiny_model(tmp_path / "bare", chat_template=False)
    ran = train(method, bare, "--dry-run")
    assert ran.code == 0, ran.err
    said = " ".join(ran.err.split())
    assert ("has no chat template of its own: it looks like a base model" in said) == noted
    assert ("train sft first and go on with init_from" in said) == noted


@pytest.mark.parametrize(
    ("method", "option", "value", "key"),
    [
        ("sft", "--rewards", "numeric_answer", "rewards"),
        ("dpo", "--rewards", "numeric_answer", "rewards"),
        ("dpo", "--num-generations", "4", "num_generations"),
        ("kto", "--max-completion-length", "8", "max_completion_length"),
        ("reward", "--max-steps-without-signal", "3", "max_steps_without_signal"),
        ("grpo", "--teacher-model", "some/teacher", "teacher_model"),
        ("distillation", "--rewards", "numeric_answer", "rewards"),
    ],
)
def test_a_field_that_means_nothing_to_the_method_is_refused(
    tiny_model: Path, method: str, option: str, value: str, key: str
):
    refused(train(method, tiny_model, option, value), f"{key} has no meaning for {method}, only for")


@pytest.mark.parametrize(
    ("method", "data", "fits"),
    [
        ("dpo", "chats.jsonl", "they fit sft"),
        ("dpo", "labelled.jsonl", "kto"),
        ("dpo", "prompts.jsonl", "grpo"),
        ("kto", "pairs.jsonl", "dpo"),
        ("kto", "chats.jsonl", "sft"),
        ("reward", "labelled.jsonl", "kto"),
        ("sft", "pairs.jsonl", "dpo"),
        ("grpo", "texts.jsonl", "sft"),
        ("distillation", "texts.jsonl", "sft"),
    ],
)
def test_data_of_another_method_is_refused_with_the_method_that_fits(
    tiny_model: Path, method: str, data: str, fits: str
):
    refused(train(method, tiny_model, "--dataset", data), f"{method} needs", "the columns are", fits)


@pytest.mark.parametrize(
    ("typed", "meant"), [("dop", "dpo"), ("GRPO", "grpo"), ("simop", "simpo"), ("distill", "distillation")]
)
def test_a_method_typed_wrong_is_refused_with_the_one_that_was_meant(
    tiny_model: Path, typed: str, meant: str
):
    ran = tunesmith("train", typed, "--model", tiny_model, "--dataset", "pairs.jsonl")
    refused(ran, f"there is no method {typed!r}", f"did you mean {meant}?")


def test_a_column_of_prompts_that_changes_its_type_is_refused(tiny_model: Path):
    rows = [json.loads(line) for line in Path("prompts.jsonl").read_text().splitlines()]
    rows[3]["answer"] = 42
    write_jsonl(Path("mixed.jsonl"), rows)
    refused(train("grpo", tiny_model, "--dataset", "mixed.jsonl"), "several types", "answer")


def test_prompts_that_are_too_long_are_left_out_and_counted(tiny_model: Path):
    rows = [json.loads(line) for line in Path("prompts.jsonl").read_text().splitlines()]
    rows[2]["prompt"][0]["content"] = "river " * 200
    write_jsonl(Path("long.jsonl"), rows)
    ran = train("grpo", tiny_model, "--dataset", "long.jsonl", "--max-length", "64", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    assert (document["data"]["num_rows"], document["data"]["num_dropped"]) == (7, 1)
    assert "1 of 8 prompts are longer than max_length 64 and are left out" in document["notes"]
    refused(
        train("grpo", tiny_model, "--dataset", "long.jsonl", "--max-length", "8"),
        "no prompt fits: all 8 are longer than max_length 8", "set max_length to ",
    )  # fmt: skip


def test_pairs_that_are_equal_once_cut_are_refused(tiny_model: Path):
    same = "It is known for its steps, and so on. " * 5
    rows = [
        {
            "prompt": [{"role": "user", "content": f"How old is number {i}?"}],
            "chosen": [{"role": "assistant", "content": f"{same}Yes."}],
            "rejected": [{"role": "assistant", "content": f"{same}No."}],
        }
        for i in range(8)
    ]
    write_jsonl(Path("alike.jsonl"), rows)
    ran = train("dpo", tiny_model, "--dataset", "alike.jsonl", "--max-length", "48", "--allow", "D207")
    refused(ran, "alike.jsonl", "raise max_length", code="D211")
    whole = train("dpo", tiny_model, "--dataset", "alike.jsonl", "--dry-run")
    assert whole.code == 0, whole.err


def test_a_pair_of_two_equal_answers_is_refused(tiny_model: Path):
    rows = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    rows[5]["rejected"] = rows[5]["chosen"]
    write_jsonl(Path("equal.jsonl"), rows)
    refused(train("dpo", tiny_model, "--dataset", "equal.jsonl"), "row 5", code="D101")
