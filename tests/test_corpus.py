"""What the checks find in broken data sets is the fault that was planted, and in clean ones nothing."""

import pytest
from corpus_broken import BROKEN
from corpus_clean import CLEAN
from corpus_rows import each_case, jsonl, question, raw, sentence, turn

from tunesmith.config.run_config import DatasetSource
from tunesmith.data.checks.rows import RowChecker
from tunesmith.data.convert import convert
from tunesmith.data.findings import CODES
from tunesmith.data.row_source import open_rows
from tunesmith.data.validate import Request, told_format, validate
from tunesmith.errors import DataError

# Reward functions are called by tests of their own; a column that begins late has one below.
_ELSEWHERE = {code for code in CODES if code.startswith("D5")} | {"D019"}


@each_case(BROKEN)
def test_the_fault_and_nothing_else_is_found(case, tmp_path):
    document = validate(case.request(tmp_path)).as_dict()
    found = [(each["code"], each["row"], each["field"]) for each in document["findings"]]
    assert sorted(found, key=repr) == sorted(case.expected, key=repr)
    assert sum(document["counts"].values()) == len(case.expected)
    assert document["num_rows"] == len(case.rows)
    grave = [code for code, *_ in case.expected if CODES[code].level == "error"]
    assert document["fit"] == (not grave)


@each_case(CLEAN)
def test_clean_data_are_fit_and_nothing_is_found(case, tmp_path):
    report = validate(case.request(tmp_path))
    assert [each for each in report.log.kept() if each.level != "info"] == []
    assert report.fit
    assert report.num_rows == len(case.rows)


def trained_on(case, folder):
    """The rows without errors, as the trainer gets them."""
    source = open_rows(case.request(folder).source)
    layout, _ = told_format(source, case.method, case.given)
    judge = RowChecker(layout)
    for number, row in source.rows():
        if not any(found.level == "error" for found in judge(row, number)):
            yield convert(row, layout)


def is_fit_for_a_trainer(row):
    """True when every answer ends with a turn of the assistant's, and something was asked."""
    answers = [row[name] for name in ("messages", "completion", "chosen", "rejected") if name in row]
    spoken = [answer[-1]["role"] for answer in answers if isinstance(answer, list)]
    blank = [name for name in ("prompt", "text") if name in row and not row[name]]
    return not blank and set(spoken) <= {"assistant"} and all(answers)


@each_case(CLEAN)
def test_clean_rows_convert_to_what_a_trainer_takes(case, tmp_path):
    rows = list(trained_on(case, tmp_path))
    assert len(rows) == len(case.rows)
    assert all(map(is_fit_for_a_trainer, rows))


@pytest.mark.parametrize(
    "name",
    [
        "a labelled conversation ends with the user",
        "a transcript ends with the human",
    ],
)
def test_no_turn_of_the_user_becomes_an_answer_to_learn(name, tmp_path):
    (case,) = [case for case in BROKEN if case.name == name]
    assert all(map(is_fit_for_a_trainer, trained_on(case, tmp_path)))


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_a_conversation_in_which_nobody_asks_is_no_prompt(role, tmp_path):
    rows = [{"messages": [turn(role, sentence(i))], "answer": i} for i in range(12)]
    report = validate(Request(DatasetSource(path=str(jsonl(tmp_path, rows))), "grpo"))
    assert not report.fit


def test_every_code_has_a_broken_data_set():
    covered = {code for case in BROKEN for code, *_ in case.expected}
    assert covered == set(CODES) - _ELSEWHERE


def test_every_data_set_has_a_name_of_its_own():
    names = [case.name for case in [*BROKEN, *CLEAN]]
    assert len(names) == len(set(names))


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = raw(tmp_path, b"question,answer,answer\r\nWho?,I.,You.\r\n", "rows.csv")
    with pytest.raises(DataError, match="two columns named 'answer'"):
        validate(Request(DatasetSource(path=str(path)), "sft"))


def test_transcripts_of_one_question_need_no_line_ends_before_them(tmp_path):
    rows = [
        {side: f"Human: {question(i)}\n\nAssistant: {sentence((i, side))}" for side in ("chosen", "rejected")}
        for i in range(12)
    ]
    report = validate(Request(DatasetSource(path=str(jsonl(tmp_path, rows))), "dpo"))
    assert report.layout.name == "hh-rlhf"


def test_a_column_that_begins_after_the_format_was_told_is_pointed_out(tmp_path):
    rows = [{"messages": [turn("user", question(i)), turn("assistant", sentence(i))]} for i in range(260)]
    rows[230]["system"] = "Be brief."
    report = validate(Request(DatasetSource(path=str(jsonl(tmp_path, rows))), "sft"))
    assert [(each.code, each.row, each.field) for each in report.log.kept()] == [("D019", None, "system")]
    assert "begins at row 230" in report.log.kept()[0].message
    named = Request(DatasetSource(path=str(jsonl(tmp_path, rows))), "sft", given={"system": "system"})
    assert validate(named).log.counts == {}
