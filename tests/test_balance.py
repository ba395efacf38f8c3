"""Lengths of chosen and rejected answers: when they differ in a way that chance doesn't explain."""

import polars as pl
import pytest

from tunesmith.data.checks.balance import Balance
from tunesmith.data.checks.texts import RowTexts
from tunesmith.data.layout import Layout

PAIRS = Layout("preference", "preference", {"chosen": "chosen", "rejected": "rejected"})


def said(chosen, rejected):
    """The messages on pairs whose answers have these lengths."""
    balance, none = Balance(), pl.Series([""] * len(chosen))
    balance.add(
        RowTexts(none, none, pl.Series(chosen, dtype=pl.UInt32), pl.Series(rejected, dtype=pl.UInt32))
    )
    return [each.message for each in balance.findings(PAIRS)]


@pytest.mark.parametrize(
    ("longer", "pairs", "found"),
    [
        (7, 7, False), (8, 8, True), (7, 8, False), (9, 10, True), (9, 12, False), (11, 12, True),
        (17, 19, False), (18, 19, True), (14, 20, True), (13, 20, False), (70, 100, True),
    ],
)  # fmt: skip
def test_few_pairs_have_to_agree_more_than_many(longer, pairs, found):
    chosen = [110] * longer + [100] * (pairs - longer)
    rejected = [100] * longer + [110] * (pairs - longer)
    assert bool(said(chosen, rejected)) == found


def test_pairs_of_one_length_don_t_count():
    assert said([50] * 12, [50] * 12) == []
    assert said([60, 60, *[50] * 10], [50] * 12) == []


def test_one_very_long_answer_says_nothing_in_few_pairs_and_something_in_many():
    assert said([5000, *[50] * 11], [60] * 12) == []
    assert said([5000, *[50] * 39], [60] * 40) != []


def test_answers_that_differ_much_and_always_bring_up_the_columns():
    [much] = said([240] * 12, [50] * 12)
    assert much == (
        "chosen is longer than rejected in 100% of 12 pairs, 4.80 times as long on average; "
        "are the columns swapped?"
    )
    [little] = said([80] * 12, [50] * 12)
    assert little == "chosen is longer than rejected in 100% of 12 pairs, 1.60 times as long on average"


def test_chosen_that_is_much_shorter_is_found_and_a_little_shorter_is_fine():
    [much] = said([50] * 40, [200] * 40)
    assert much == (
        "chosen is shorter than rejected in 100% of 40 pairs, 0.25 times as long on average; "
        "are the columns swapped?"
    )
    assert said([60] * 40, [100] * 40) == []
    assert said([50] * 7, [200] * 7) == []
