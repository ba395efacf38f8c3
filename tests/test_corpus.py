"""What the checks find in broken data sets is the fault that was planted, and in clean ones nothing."""

import pytest
from corpus_broken import BROKEN
from corpus_clean import CLEAN

from tunesmith.data.findings import CODES
from tunesmith.data.validate import validate

# Codes that are about reward functions; their tests call them.
_OF_REWARDS = {code for code in CODES if code.startswith("D5")}


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def places(document):
    return sorted((found["code"], found["row"], found["field"]) for found in document["findings"])


@each(BROKEN)
def test_the_fault_and_nothing_else_is_found(case, tmp_path):
    document = validate(case.request(tmp_path)).as_dict()
    found = [(each["code"], each["row"], each["field"]) for each in document["findings"]]
    assert sorted(found, key=repr) == sorted(case.expected, key=repr)
    assert sum(document["counts"].values()) == len(case.expected)
    grave = [code for code, *_ in case.expected if CODES[code].level == "error"]
    assert document["fit"] == (not grave)


@each(CLEAN)
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
