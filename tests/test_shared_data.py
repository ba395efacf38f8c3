"""Real files that other people made: what is found in them, each finding looked at (2026-11-24)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.config.run_config import DatasetSource
from tunesmith.data.validate import Request, validate

SHARED = Path(__file__).parents[2] / "shared" / "data"


def report_on(name: str, method: str):
    if not (SHARED / name).is_file():
        pytest.skip(f"{SHARED / name} is not here; tests/test_corpus.py covers the same with made data")
    return validate(Request(DatasetSource(path=str(SHARED / name)), method))


def test_alpaca_holds_true_copies_and_nothing_else():
    report = report_on("alpaca_en_demo.json", "sft")
    assert (report.layout.name, report.num_rows, report.fit) == ("alpaca", 999, True)
    assert dict(report.log.counts) == {"D301": 14}
    pairs = {each.row: int(each.message.rsplit(" ", 1)[1]) for each in report.log.kept()}
    assert pairs[275] == 117


def test_preferences_hold_true_copies_and_one_text_of_a_broken_encoding():
    report = report_on("dpo_en_demo.json", "dpo")
    assert (report.layout.name, report.num_rows, report.fit) == ("sharegpt", 300, True)
    assert dict(report.log.counts) == {"D016": 1, "D301": 5}
    [control] = [each for each in report.log.kept() if each.code == "D016"]
    assert (control.row, control.field) == (15, "conversations[1].value")


def test_preferences_are_no_conversations_to_learn():
    report = report_on("dpo_en_demo.json", "sft")
    assert not report.fit
    assert dict(report.log.counts) == {"D107": 1}
