"""Prompt and answers as token ids: what they decode to, where they are cut, and what TRL makes of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from encoding import config_for, encode
from tiny import _train_tokenizer, chat_rows

from tunesmith.data.token_rows import ENDS, LENGTH
from tunesmith.train.trainers import TRAINERS

QUESTION = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
LET_THROUGH = ("D101", "D102", "D103", "D105", "D203", "D205", "D206", "D207", "D211", "D303")


@pytest.fixture(scope="module")
def tokenizer():
    return _train_tokenizer(chat_template=True)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def pair(question: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": [user(question)], "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]}


def rows_of(tokenizer, rows: list[dict], method: str = "dpo", **settings) -> list[dict[str, Any]]:
    made = encode(tokenizer, rows, method=method, allow=LET_THROUGH, **settings)
    return [dict(zip(made, values, strict=True)) for values in zip(*made.values(), strict=True)]


def text_of(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def odd_pairs(n: int) -> list[dict[str, Any]]:
    chosen = random.Random(11)
    words = ["🙂", "é", "  two  spaces", "\n\ncode:\n    x = 1", "京都", "the river", "a", "end.", "'s", "\t"]

    def said(number: int) -> str:
        return f"{chosen.choice(words)}{''.join(chosen.choices(words, k=chosen.randrange(6)))}{number}"

    rows = []
    for i in range(n):
        before = [user(said(i)), assistant(said(i))] if i % 3 == 0 else []
        rows.append(pair(said(i), said(i), said(-i - 1)))
        rows[-1]["prompt"] = before + rows[-1]["prompt"]
    return rows


def test_a_prompt_ends_with_the_generation_prompt_and_an_answer_with_the_end_of_its_turn(tokenizer):
    (row,) = rows_of(tokenizer, [pair("Who built it?", "Nobody knows.", "A bear did.")])
    assert text_of(tokenizer, row["prompt_ids"]) == QUESTION.format("Who built it?")
    assert text_of(tokenizer, row["chosen_ids"]) == "Nobody knows." + END
    assert text_of(tokenizer, row["rejected_ids"]) == "A bear did." + END
    for side in ("chosen_ids", "rejected_ids"):
        assert row[side].count(tokenizer.eos_token_id) == 1
        assert row[side][-1] == tokenizer.eos_token_id
    assert row[ENDS] is True


def test_answers_that_begin_alike_belong_to_the_answers_not_to_the_prompt(tokenizer):
    (row,) = rows_of(tokenizer, [pair("How old?", "It is 7 years old.", "It is 9 years old.")])
    assert text_of(tokenizer, row["prompt_ids"]) == QUESTION.format("How old?")
    assert text_of(tokenizer, row["chosen_ids"]) == "It is 7 years old." + END
    assert text_of(tokenizer, row["rejected_ids"]) == "It is 9 years old." + END


def test_whole_conversations_are_split_where_they_part(tokenizer):
    start = [user("Who?"), assistant("Me."), user("Why?")]
    row = {"chosen": [*start, assistant("For fun.")], "rejected": [*start, assistant("No reason.")]}
    (made,) = rows_of(tokenizer, [row])
    prompt = QUESTION.format("Who?") + f"Me.{END}\n" + QUESTION.format("Why?")
    assert text_of(tokenizer, made["prompt_ids"]) == prompt
    assert text_of(tokenizer, made["chosen_ids"]) == "For fun." + END
    assert text_of(tokenizer, made["rejected_ids"]) == "No reason." + END


def test_plain_text_whose_tokens_merge_across_the_boundary_is_split_where_the_tokens_part(tokenizer):
    row = {"prompt": "Q: the riv", "chosen": "er is long", "rejected": " is not a word"}
    (made,) = rows_of(tokenizer, [row])
    for side in ("chosen", "rejected"):
        whole = tokenizer(row["prompt"] + row[side])["input_ids"]
        ids = made["prompt_ids"] + made[f"{side}_ids"]
        assert ids[: len(whole)] == whole
        assert text_of(tokenizer, ids).removesuffix(END) == row["prompt"] + row[side]
    # `river` is one token: what is left of it belongs to the answer, as the first token that differs.
    assert "Q: the riv".startswith(text_of(tokenizer, made["prompt_ids"]))
    assert len(made["prompt_ids"]) < len(tokenizer(row["prompt"])["input_ids"])


def test_max_length_cuts_the_answers_and_keeps_the_prompt(tokenizer):
    row = pair("Describe the river of Oslo.", "7" * 30, "9" * 6)
    (whole,) = rows_of(tokenizer, [row])
    size = len(whole["prompt_ids"])
    for room in (1, 5, 7, 12):
        (cut,) = rows_of(tokenizer, [row], max_length=size + room)
        assert cut["prompt_ids"] == whole["prompt_ids"]
        assert cut["chosen_ids"] == whole["chosen_ids"][:room]
        assert cut["rejected_ids"] == whole["rejected_ids"][:room]
        assert cut[LENGTH] == whole[LENGTH] > size + 30
        assert cut[ENDS] is False
    (cut,) = rows_of(tokenizer, [row], max_length=size - 2)
    assert cut["prompt_ids"] == whole["prompt_ids"][:-2]
    assert cut["chosen_ids"] == cut["rejected_ids"] == []


def test_a_row_for_kto_is_a_prompt_an_answer_and_its_label(tokenizer):
    rows = [
        {"prompt": [user("Who?")], "completion": [assistant(f"Me, {i}.")], "label": i % 2 == 0}
        for i in range(4)
    ]
    made = rows_of(tokenizer, rows, method="kto")
    assert [row["label"] for row in made] == [True, False, True, False]
    for i, row in enumerate(made):
        assert text_of(tokenizer, row["prompt_ids"]) == QUESTION.format("Who?")
        assert text_of(tokenizer, row["completion_ids"]) == f"Me, {i}." + END
    (cut, *_) = rows_of(tokenizer, rows, method="kto", max_length=len(made[0]["prompt_ids"]) + 2)
    assert cut["completion_ids"] == made[0]["completion_ids"][:2]


def test_each_batch_of_kto_holds_its_answers_beside_the_next_row_s_prompt():
    from tunesmith.train.kto import _rotate_answers

    answers = [[1], [2, 2], [3]]
    made = _rotate_answers({"completion_ids": answers, "label": [True, False, True]})
    assert made["KL_completion_ids"] == [[3], [1], [2, 2]]
    assert made["completion_ids"] == answers
    assert made["label"] == [True, False, True]


def test_a_row_for_a_reward_model_is_two_whole_conversations(tokenizer):
    rows = rows_of(tokenizer, [pair("Who?", "Me.", "You.")], method="reward")
    dataset = TRAINERS["reward"].rows(Dataset.from_list(rows), config_for(method="reward"))
    assert text_of(tokenizer, dataset[0]["chosen_ids"]) == QUESTION.format("Who?") + "Me." + END
    assert text_of(tokenizer, dataset[0]["rejected_ids"]) == QUESTION.format("Who?") + "You." + END
    assert "prompt_ids" not in dataset.column_names


def test_labels_of_orpo_and_cpo_leave_the_prompt_out():
    from trl.experimental.cpo import CPOTrainer

    from tunesmith.train.pair_rows import reads_pair_ids

    row = {"prompt_ids": [1, 2], "chosen_ids": [3, 4], "rejected_ids": [5]}
    made = reads_pair_ids(CPOTrainer).tokenize_row(None, row)
    assert made["prompt_input_ids"] == [1, 2]
    assert made["chosen_input_ids"] == [1, 2, 3, 4]
    assert made["chosen_labels"] == [-100, -100, 3, 4]
    assert made["rejected_input_ids"] == [1, 2, 5]
    assert made["rejected_labels"] == [-100, -100, 5]
    assert made["chosen_attention_mask"] == [1] * 4


def trl_rows(tiny_model: Path, tokenizer, kind: str, rows: list[dict]) -> list[dict[str, Any]]:
    """What TRL's own trainer makes of rows."""
    import trl
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    config_class, trainer_class = getattr(trl, f"{kind}Config"), getattr(trl, f"{kind}Trainer")
    if kind == "Reward":
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    else:
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
    arguments = config_class(
        output_dir=str(tiny_model.parent / "trl"),
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        max_length=4096,
    )
    trainer = trainer_class(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    return list(trainer.train_dataset)


def test_pairs_equal_those_of_trl_but_for_the_newline_after_the_end(tiny_model: Path, tokenizer):
    rows = odd_pairs(40)
    newline = tokenizer("\n")["input_ids"]
    ours = rows_of(tokenizer, rows, max_length=4096)
    for mine, theirs in zip(ours, trl_rows(tiny_model, tokenizer, "DPO", rows), strict=True):
        assert mine["prompt_ids"] == theirs["prompt_ids"]
        assert mine["chosen_ids"] + newline == theirs["chosen_ids"]
        assert mine["rejected_ids"] + newline == theirs["rejected_ids"]


def test_plain_pairs_equal_those_of_trl(tiny_model: Path, tokenizer):
    rows = [
        {"prompt": f"Q{i}: the riv", "chosen": f"er {'🙂' * i} is\n", "rejected": f" {i} is not"}
        for i in range(8)
    ]
    rows.append({"prompt": "Q: ", "chosen": " yes", "rejected": "no"})
    ours = rows_of(tokenizer, rows)
    for mine, theirs in zip(ours, trl_rows(tiny_model, tokenizer, "DPO", rows), strict=True):
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            assert mine[name] == theirs[name]


def test_labelled_answers_equal_those_of_trl_but_for_the_newline_after_the_end(tiny_model: Path, tokenizer):
    rows = [
        {"prompt": row["messages"][:-1], "completion": row["messages"][-1:], "label": i % 2 == 0}
        for i, row in enumerate(chat_rows(12))
    ]
    newline = tokenizer("\n")["input_ids"]
    ours = rows_of(tokenizer, rows, method="kto")
    for mine, theirs in zip(ours, trl_rows(tiny_model, tokenizer, "KTO", rows), strict=True):
        assert mine["prompt_ids"] == theirs["prompt_ids"]
        assert mine["completion_ids"] + newline == theirs["completion_ids"]
        assert mine["label"] == theirs["label"]


def test_conversations_for_a_reward_model_equal_those_of_trl_but_for_the_newline_after_the_end(
    tiny_model: Path, tokenizer
):
    rows = odd_pairs(12)
    newline = tokenizer("\n")["input_ids"]
    made = TRAINERS["reward"].rows(
        Dataset.from_list(rows_of(tokenizer, rows, method="reward", max_length=4096)),
        config_for(method="reward"),
    )
    for mine, theirs in zip(made, trl_rows(tiny_model, tokenizer, "Reward", rows), strict=True):
        assert mine["chosen_ids"] + newline == theirs["chosen_ids"]
        assert mine["rejected_ids"] + newline == theirs["rejected_ids"]
