"""Duplicates, near duplicates, leakage and contradictions, planted; accuracy against exact similarity."""

import io
import random
import time
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from tunesmith.data.checks import duplicates, signatures
from tunesmith.data.checks.duplicates import Copies, copies_across, duplicate_findings, leakage_findings
from tunesmith.data.checks.signatures import Signatures, concatenate, sign

SYLLABLES = ["ka", "lo", "mi", "ter", "sen", "ru", "pa", "vi", "no", "de", "gra", "stu", "bel", "an", "thi"]
VOCABULARY = sorted({a + b + c for a in SYLLABLES for b in ["", *SYLLABLES] for c in ["", *SYLLABLES]})
random.Random(0).shuffle(VOCABULARY)


def text(made, num_words):
    """Sentences in which, as in a language, few words make most of the text."""
    words = [VOCABULARY[int(len(VOCABULARY) * made.random() ** 3)] for _ in range(num_words)]
    for at in range(0, num_words, 11):
        words[at] = words[at].capitalize() if at % 2 else words[at] + "."
    return " ".join(words)


def edited(made, original, num_edits):
    words = original.split()
    for _ in range(num_edits):
        at, kind = made.randrange(len(words)), made.randrange(3)
        words[at : at + (kind != 0)] = [made.choice(VOCABULARY)] if kind != 1 else []
    return " ".join(words)


def shingles(written):
    words = written.lower().split()
    return {tuple(words[at : at + 3]) for at in range(len(words) - 2)}


def jaccard(one, other):
    return len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))


def signed(prompts, answers=None, first_row=0):
    answers = [None] * len(prompts) if answers is None else answers
    rows = np.arange(first_row, first_row + len(prompts))
    return sign(rows, pl.Series(prompts, dtype=pl.String), pl.Series(answers, dtype=pl.String))


def found(prompts, answers=None):
    return [(each.code, each.row, each.message) for each in duplicate_findings(signed(prompts, answers))]


def same(one, other):
    theirs = other.to_arrays()
    return all(
        np.array_equal(mine, theirs[name]) and mine.dtype == theirs[name].dtype
        for name, mine in one.to_arrays().items()
    )


def test_copies_in_another_case_spacing_or_unicode_form_are_exact_duplicates():
    prompts = [
        "Where is the café?",
        "Something else",
        "where IS  the\tCAFÉ? ",
        "Where is the cafe\u0301?",
        "Where is\u00a0the\u2028café?",
        "Ｗhere is the café?",
        "Where is the cafe?",
    ]
    answers = ["In the ﬁrst street.", "Yes", *["\n in the First Street.\n"] * 4, "In the first street."]
    assert found(prompts, answers) == [("D301", row, "is the same as row 0") for row in (2, 3, 4, 5)]


def test_each_copy_names_the_first_row_of_its_own_group():
    assert found(["a b", "c d", "A B", "c  d", "a b", "e"]) == [
        ("D301", 2, "is the same as row 0"),
        ("D301", 3, "is the same as row 1"),
        ("D301", 4, "is the same as row 0"),
    ]


def test_the_place_between_prompt_and_answer_makes_no_difference_to_the_whole_text():
    assert [
        code for code, *_ in found(["one two", "one", None], ["three", "two three", "one two three"])
    ] == [
        "D301",
        "D301",
    ]


def test_a_near_duplicate_names_the_earliest_similar_row_and_how_similar_it_is():
    made = random.Random(1)
    rows = [text(made, 120) for _ in range(200)]
    planted = {50: 3, 120: 3, 199: 77}
    for row, original in planted.items():
        rows[row] = edited(made, rows[original], 1)
    rows[160] = rows[120]
    near = [each for each in found(rows) if each[0] == "D302"]
    assert [row for _, row, _ in near] == sorted(planted)
    for _, row, message in near:
        percent, original = message.removeprefix("is ").split(" % the same as row ")
        assert int(original) == planted[row]
        assert int(percent) == pytest.approx(100 * jaccard(rows[row], rows[int(original)]), abs=5)
    assert [each for each in found(rows) if each[0] == "D301"] == [("D301", 160, "is the same as row 120")]


def test_unrelated_and_half_similar_rows_are_not_near_duplicates():
    made = random.Random(2)
    rows = [text(made, 100) for _ in range(500)]
    for row in range(0, 500, 5):
        rows[row] = " ".join(rows[row + 1].split()[:67]) + " " + " ".join(rows[row].split()[:33])
    assert 0.45 < np.mean([jaccard(rows[row], rows[row + 1]) for row in range(0, 500, 5)]) < 0.55
    assert found(rows) == []


def edited_pairs(num_pairs):
    made = random.Random(3)
    for _ in range(num_pairs):
        num_words = made.randrange(30, 250)
        original = text(made, num_words)
        yield original, edited(made, original, made.randrange(1, 2 + num_words // 12))


def test_recall_and_precision_against_exact_similarity():
    pairs = [pair for pair in edited_pairs(1200) if pair[0] != pair[1]]
    reported = {row for code, row, _ in found([each for pair in pairs for each in pair]) if code == "D302"}
    exact = np.array([jaccard(*pair) for pair in pairs])
    near = np.array([2 * number + 1 in reported for number in range(len(pairs))])
    assert min((exact >= 0.9).sum(), (exact < 0.75).sum()) > 200
    assert near[exact >= 0.9].mean() >= 0.995
    assert near[exact >= 0.85].mean() >= 0.95
    assert not near[exact < 0.7].any()
    assert (exact[near] >= 0.8).mean() >= 0.95


def test_the_estimate_is_unbiased_and_as_exact_as_the_docstring_says():
    pairs = list(edited_pairs(1200))
    one, other = signed([pair[0] for pair in pairs]), signed([pair[1] for pair in pairs])
    exact = np.array([jaccard(*pair) for pair in pairs])
    error = duplicates.similarities(one.bands, other.bands) - exact
    around = (exact > 0.7) & (exact < 0.9)
    assert abs(error.mean()) < 0.003
    assert error[around].std() < 0.033


def test_one_passage_with_other_questions_and_answers_is_no_duplicate():
    made = random.Random(4)
    passage = text(made, 300)
    questions = [text(made, 9) for _ in range(60)]
    answers = [text(made, made.choice((1, 2, 4, 15))) for _ in range(60)]
    prompts = [f"{passage}\n{question}" for question in questions]
    assert jaccard(f"{prompts[0]} {answers[0]}", f"{prompts[1]} {answers[1]}") > 0.85
    assert len(found(prompts, answers)) <= 1
    answers[40] = answers[3] = "Nowhere at all."
    assert ("D302", 40) in [(code, row) for code, row, _ in found(prompts, answers)]


def test_rows_of_few_words_are_never_near_duplicates():
    assert found(["turn it on", "turn it on!", "now turn it on", "now turn it on!"]) == []


def test_text_without_spaces_is_compared_by_its_characters():
    made = random.Random(5)
    characters = [chr(made.randrange(0x4E00, 0x5E00)) for _ in range(300)]
    changed = [*characters[:150], "新", *characters[151:]]
    other = [chr(made.randrange(0x4E00, 0x5E00)) for _ in range(300)]
    thai = "".join(chr(made.randrange(0xE01, 0xE2F)) for _ in range(200))
    rows = ["".join(each) for each in (characters, other, changed)] + [thai, thai[:100] + thai[101:]]
    assert [(code, row) for code, row, _ in found(rows)] == [("D302", 2), ("D302", 4)]


@pytest.mark.parametrize(
    "odd",
    [
        "😀" * 50,
        "👩‍👩‍👧‍👦 👍🏽",
        "𠀀𠀁𠀂𠀃𠀄𠀅",
        "中",
        "abc中",
        "\x00\x1f",
        "\u2028",
        "é",
        "a" * 100_000,
        "ﷺ",
    ],
)
def test_odd_text_is_signed_alone_and_amid_other_rows(odd):
    alone = signed([odd], [odd])
    amid = signed(["Some words", odd, "中文", None], ["", odd, "and more", odd])
    assert same(alone, Signatures.from_arrays({**amid.take(np.array([1])).to_arrays(), "rows": alone.rows}))


def test_empty_and_missing_texts_are_like_no_other_row():
    assert found([]) == []
    assert found(["", None, " \n", ""], [None, "", None, "\t"]) == []
    assert found(["only one"]) == []
    nothing = signed([None, ""])
    assert not np.concatenate([nothing.exact, nothing.prompts, nothing.answers]).any()
    untyped = sign(np.arange(2), pl.Series(["a", "a"]), pl.Series([None, None]))
    assert [each.code for each in duplicate_findings(untyped)] == ["D301"]


def test_one_prompt_with_another_answer_is_contradictory():
    prompts = [
        "What is 1+1?",
        "Who?",
        "what is  1+1?",
        "What is 1+1?",
        "What is 1+1?",
        "Who?",
        "",
        "",
        "Who?",
    ]
    answers = ["2", "Me", "3", "2", "4", None, "One", "Two", "me"]
    assert found(prompts, answers) == [
        ("D305", 2, "has the prompt of row 0 and another answer"),
        ("D301", 3, "is the same as row 0"),
        ("D305", 4, "has the prompt of row 0 and another answer"),
        ("D301", 8, "is the same as row 1"),
    ]


def test_evaluation_rows_in_the_training_data_are_leaks():
    made = random.Random(6)
    train = [text(made, 80) for _ in range(300)]
    evaluation = [text(made, 80) for _ in range(50)]
    train[90] = train[20]
    evaluation[7] = train[20].upper()
    evaluation[31] = edited(made, train[250], 1)
    evaluation[32] = evaluation[31]
    evaluation[40] = evaluation[3]
    leaks = list(leakage_findings(signed(train), signed(evaluation)))
    assert [(each.code, each.row) for each in leaks] == [("D303", 7), ("D304", 31), ("D304", 32)]
    assert leaks[0].message == "is the same as row 20 of the training data"
    assert leaks[1].message.endswith(" % the same as row 250 of the training data")
    assert list(leakage_findings(signed([]), signed(evaluation))) == []
    assert list(leakage_findings(signed(train), signed([]))) == []


def test_rows_of_an_earlier_data_set_are_counted_once_whatever_the_parts():
    first = [signed(["a b", "c d"]), signed(["e f", ""], first_row=2)]
    second = [signed(["E f", "", "g h", "e f"]), signed(["c d", "g h"], first_row=4)]
    assert copies_across([first, second]) == Copies(2, 1, 0, 0, 2)
    assert copies_across([first, [], second]) == Copies(2, 2, 0, 0, 2)
    assert copies_across([second, [signed(["i j"])]]) is None
    assert copies_across([first]) is copies_across([]) is copies_across([[], []]) is None


def test_near_duplicates_can_be_left_out_and_exact_ones_stay():
    made = random.Random(8)
    rows = [text(made, 80) for _ in range(20)]
    rows += [edited(made, rows[3], 1), rows[5]]
    assert [each.code for each in duplicate_findings(signed(rows))] == ["D302", "D301"]
    assert [each.code for each in duplicate_findings(signed(rows), near=False)] == ["D301"]


def mixed_rows():
    made = random.Random(7)
    prompts = [text(made, made.randrange(1, 60)) for _ in range(400)]
    answers = [text(made, made.randrange(1, 90)) for _ in range(400)]
    for row in range(200, 400, 7):
        prompts[row], answers[row] = prompts[row - 150], edited(made, answers[row - 150], row % 3)
    prompts[11], answers[17], prompts[30], answers[30] = None, None, "中文" * 40, "😀 é"
    return prompts, answers


def test_the_signatures_of_parts_put_together_are_those_of_the_whole(monkeypatch):
    prompts, answers = mixed_rows()
    whole = signed(prompts, answers)
    cuts = [0, 1, 1, 90, 217, 400]
    parts = [signed(prompts[a:b], answers[a:b], first_row=a) for a, b in pairwise(cuts)]
    assert same(concatenate(parts), whole)
    monkeypatch.setattr(signatures, "SLICE_BYTES", 2000)
    assert same(signed(prompts, answers), whole)
    assert len(concatenate([])) == 0


def test_findings_are_the_same_whatever_the_order_of_the_parts():
    prompts, answers = mixed_rows()
    whole = signed(prompts, answers)
    parts = [whole.take(np.arange(a, b)) for a, b in ((250, 400), (0, 90), (90, 250))]
    findings = list(duplicate_findings(whole))
    assert {each.code for each in findings} == {"D301", "D302", "D305"}
    assert list(duplicate_findings(concatenate(parts))) == findings
    assert [each.row for each in findings] == sorted(each.row for each in findings)


def test_signatures_can_be_saved_and_are_of_bounded_size():
    whole = signed(*mixed_rows())
    file = io.BytesIO()
    np.savez(file, **whole.to_arrays())
    file.seek(0)
    with np.load(file) as arrays:
        assert same(Signatures.from_arrays(arrays), whole)
    assert sum(array.nbytes for array in whole.to_arrays().values()) == 145 * len(whole)


def test_signatures_are_the_same_in_every_version():
    kept = signed(
        ["Name the colours of the rainbow, please"], ["Red, orange, yellow, green, blue and violet"]
    )
    assert hex(kept.exact[0]) == "0xd0cc405ed16164c9"
    assert hex(kept.bands[0, 0]) == "0x2d9f9070"
    assert hex(kept.answer_bits[0]) == "0x89c1806e24dd92c0"


def test_a_hundred_thousand_rows_alike_take_seconds():
    made = random.Random(8)
    template = text(made, 60)
    start = time.monotonic()
    assert len(found([template] * 100_000)) == 99_999
    alike = signed([f"{template} {made.choice(VOCABULARY)} {made.random()}" for _ in range(100_000)])
    assert len(list(duplicate_findings(alike))) == 99_999
    assert time.monotonic() - start < 30
