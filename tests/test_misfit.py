"""Columns that fit no format of a method: what a person is told, and which columns are guessed."""

import pytest

from tunesmith.data.misfit import advice, guess, misfit, no_layout


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["prompt", "good", "bad"], ("good", "bad")),
        (["prompt", "bad", "good"], ("good", "bad")),
        (["prompt", "Good_Answer", "Bad_Answer"], ("Good_Answer", "Bad_Answer")),
        (["q", "responsePositive", "responseNegative"], ("responsePositive", "responseNegative")),
        (["prompt", "accepted", "refused", "rejected"], ("accepted", "rejected")),
        (["prompt", "winner_text", "loser_text"], ("winner_text", "loser_text")),
        (["prompt", "text_preferred", "text_dispreferred"], ("text_preferred", "text_dispreferred")),
        (["prompt", "response_a", "response_b"], ("response_a", "response_b")),
        (["prompt", "output1", "output2"], ("output1", "output2")),
        (["prompt", "y_w", "y_l"], ("y_w", "y_l")),
    ],
)
def test_pairs_are_guessed_from_the_words_that_tell_them_apart(columns, found):
    assert guess("dpo", columns) == {"chosen": found[0], "rejected": found[1]}
    assert guess("sft", columns) == {}


@pytest.mark.parametrize(
    "columns", [["a", "b"], ["id", "question1", "question2"], ["good", "worse"], ["good", "bad_taste"], []]
)
def test_what_only_looks_like_a_pair_is_not_guessed(columns):
    assert guess("dpo", columns) == {}


def test_a_guess_is_a_line_to_copy_and_no_other_method_is_praised():
    columns = ["prompt", "good", "bad"]
    rows = [{"prompt": "Why?", "good": "So.", "bad": "No."}]
    error = misfit("dpo", columns, rows, "pairs.jsonl")
    assert error.message == "dpo needs chosen and rejected, and the columns are prompt, good, bad"
    assert error.fix.startswith("name the columns: --map chosen=good,rejected=bad (a guess")
    assert "they fit grpo" in no_layout("dpo", ["prompt", "score"], [{"prompt": "Why?", "score": 1}])


@pytest.mark.parametrize(
    ("method", "slots"),
    [
        ("sft", "user=COLUMN,assistant=COLUMN"),
        ("dpo", "chosen=COLUMN,rejected=COLUMN"),
        ("kto", "prompt=COLUMN,completion=COLUMN,label=COLUMN"),
        ("grpo", "prompt=COLUMN"),
    ],
)
def test_without_a_guess_the_slots_of_the_method_are_named(method, slots):
    assert advice(method, ["x"]).endswith(f"--map {slots}")
