"""What the checks find in broken data sets is the fault that was planted, and in clean ones nothing."""

import pytest
from corpus_broken import BROKEN
from corpus_clean import CLEAN
from corpus_rows import each_case, jsonl, question, raw, sentence

from tunesmith.config.run_config import DatasetSource
from tunesmith.data.findings import CODES
from tunesmith.data.validate import Request, validate
from tunesmith.errors import DataError

# Codes that are about reward functions; their tests call them.
_OF_REWARDS = {code for code in CODES if code.startswith("D5")}


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


def test_every_code_has_a_broken_data_set():
    covered = {code for case in BROKEN for code, *_ in case.expected}
    assert covered == set(CODES) - _OF_REWARDS


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
