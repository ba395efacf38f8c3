"""Reward functions: badly written ones are findings, good ones are silent, names that fail are sentences."""

import asyncio
import copy
import functools
import inspect
import json
import math
import random
import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tunesmith.data.checks import reward_calls
from tunesmith.data.checks.rewards import check_reward
from tunesmith.errors import ConfigError
from tunesmith.rewards.loading import load_reward, raised_at

NUM_ROWS = 12
HERE = Path(__file__).name
TEXT_ROWS = [
    {"prompt": f"What is {n} + {n}?", "answer": str(2 * n), "level": n} for n in range(10, 10 + NUM_ROWS)
]
CHAT_ROWS = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in TEXT_ROWS]


def content(completion):
    return completion if isinstance(completion, str) else completion[0]["content"]


def accuracy(completions, answer, **kwargs):
    return [float(truth in content(each)) for each, truth in zip(completions, answer, strict=True)]


def check(function, rows=CHAT_ROWS, **options):
    return check_reward(function, "my.py:f", rows, **options)


def codes(function, rows=CHAT_ROWS, **options):
    return [finding.code for finding in check(function, rows, **options)[1]]


def only(function, rows=CHAT_ROWS, **options):
    report, (finding,) = check(function, rows, **options)
    assert finding.field == "reward my.py:f"
    assert "\n" not in finding.message
    return report, finding


# Good ones are silent.


def by_length(completions, **kwargs):
    return [-len(content(each)) / 100 for each in completions]


def in_tags_only(completions, solution, **kwargs):
    found = [re.search("<answer>\\s*(.*?)\\s*</answer>", content(each), re.DOTALL) for each in completions]
    return [float(bool(each) and each[1] == truth) for each, truth in zip(found, solution, strict=True)]


async def accuracy_later(completions, answer, **kwargs):
    await asyncio.sleep(0)
    return accuracy(completions, answer)


class Accuracy:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, prompts, completions, answer, **kwargs):
        return [self.weight * each for each in accuracy(completions, answer)]


class AccuracyLater(Accuracy):
    async def __call__(self, prompts, completions, answer, **kwargs):
        return accuracy(completions, answer)


def everything_by_name(
    prompts, completions, completion_ids, trainer_state, log_extra, log_metric, answer, level
):
    assert trainer_state.global_step == 0
    assert [len(each) for each in completion_ids] == [len(content(each)) for each in completions]
    log_extra("level", level)
    log_metric("mean", 0.5)
    return accuracy(completions, answer)


def as_array(completions, answer, **kwargs):
    return np.array(accuracy(completions, answer), dtype=np.float32)


def as_truth_values(completions, answer, **kwargs):
    return (each > 0 for each in accuracy(completions, answer))


def by_keyword(completions, **kwargs):
    return accuracy(completions, kwargs["answer"])


GOOD = [
    accuracy, by_length, accuracy_later, Accuracy(0.5), AccuracyLater(1), everything_by_name, as_array,
    as_truth_values, functools.partial(Accuracy(2), extra=1), by_keyword,
]  # fmt: skip


@pytest.mark.parametrize("rows", [TEXT_ROWS, CHAT_ROWS], ids=["text", "chat"])
@pytest.mark.parametrize("function", GOOD, ids=lambda each: getattr(each, "__name__", type(each).__name__))
def test_a_good_reward_is_silent(function, rows):
    report, findings = check(function, rows)
    assert findings == []
    assert (report.name, report.num_rows, report.num_none) == ("my.py:f", NUM_ROWS, 0)
    assert report.minimum < report.maximum
    assert report.calls_per_s > 0
    json.dumps(report.as_dict(), allow_nan=False)


def test_an_answer_in_the_form_that_the_reward_wants_is_among_the_samples():
    rows = [{"prompt": row["prompt"], "solution": row["answer"]} for row in TEXT_ROWS]
    report, findings = check(in_tags_only, rows)
    assert findings == []
    assert report.reference_column == "solution"
    assert report.mean_by_completion["the reference answer in tags"] == 1
    assert report.mean_by_completion["the reference answer"] == 0


def test_completions_are_messages_for_conversations_and_text_for_text():
    def types(prompts, completions, **kwargs):
        same = [isinstance(a, str) == isinstance(b, str) for a, b in zip(prompts, completions, strict=True)]
        assert all(same)
        return list(map(float, range(len(completions))))

    assert codes(types, TEXT_ROWS) == codes(types, CHAT_ROWS) == []


def test_the_report_says_what_known_completions_got():
    report, _ = check(accuracy)
    assert report.mean_by_completion["the reference answer"] == 1
    assert report.mean_by_completion["an empty completion"] == 0
    assert (report.minimum, report.maximum, report.num_completions) == (0, 1, 8 * NUM_ROWS)
    assert report.reference_column == "answer"
    assert report.said() == "0.625 on average, 0 to 1, over 96 sample answers"


def test_the_report_names_a_wrong_answer_that_is_worth_as_much_as_the_right_one():
    report, _ = check(by_length)
    assert report.said().endswith("; an empty completion gets 0, the reference answer at best -0.02")
    assert "gets" not in check(accuracy)[0].said()


def test_at_most_64_rows_are_used_from_the_whole_data():
    seen = set()

    def note(completions, level, **kwargs):
        seen.update(level)
        return [float(len(content(each))) for each in completions]

    report, _ = check(note, [{"prompt": "p", "level": n} for n in range(1000)])
    assert report.num_rows == len(seen) == 64
    assert max(seen) > 900


def test_a_reward_can_change_what_it_is_given_without_harm():
    def greedy(prompts, completions, answer, **kwargs):
        rewards = accuracy(completions, answer)
        for prompt in prompts:
            prompt[0].clear()
        answer.clear()
        return rewards

    rows = copy.deepcopy(CHAT_ROWS)
    assert codes(greedy, rows) == []
    assert rows == CHAT_ROWS


# Bad ones are not.


def test_one_that_always_raises_is_one_finding():
    def broken(completions, **kwargs):
        raise KeyError("colour\nand more")

    report, finding = only(broken)
    assert report is None
    assert (finding.code, finding.row) == ("D501", None)
    line = inspect.getsourcelines(broken)[1] + 1
    assert finding.message.startswith("raises KeyError: 'colour\\nand more' (")
    assert finding.message.endswith(f"{HERE}:{line}) on every completion")
    assert finding.fix == "mend that line; what it can't judge may get 0 or None"


def test_one_that_exits_is_reported_and_does_not_end_the_program():
    def leave(completions, **kwargs):
        sys.exit("no GPU here")

    assert only(leave)[1].message.startswith("raises SystemExit: no GPU here (")


def test_the_row_on_which_it_raises_is_named():
    def brittle(completions, level, **kwargs):
        return [len(content(each)) / (n - 13) for each, n in zip(completions, level, strict=True)]

    report, finding = only(brittle, row_numbers=range(100, 100 + NUM_ROWS))
    assert (finding.code, finding.row) == ("D501", 103)
    assert finding.message.startswith("raises ZeroDivisionError: ")
    assert report.num_completions == 8 * (NUM_ROWS - 1)


def test_one_that_raises_on_a_kind_of_completion_is_one_finding():
    def first_word(completions, **kwargs):
        return [float(len(content(each).split()[0])) for each in completions]

    _, finding = only(first_word)
    assert (finding.code, finding.row) == ("D501", None)
    line = inspect.getsourcelines(first_word)[1] + 1
    assert finding.message.startswith("raises IndexError: list index out of range (")
    assert finding.message.endswith(f"{HERE}:{line}) for an empty completion, whatever the row")


def test_one_that_raises_the_same_on_several_kinds_of_completion_is_one_finding():
    def reads(completions, **kwargs):
        return [float(bool(json.loads(content(each)))) for each in completions]

    _, finding = only(reads)
    assert "for the reference answer in a sentence and 6 more kinds of completions" in finding.message


def test_the_line_that_is_named_is_the_rewards_own_however_it_is_called(folder, monkeypatch):
    (folder / "asleep.py").write_text(
        "import re\nfrom sleepy import judge\n\n\ndef now(completions, **kwargs):\n"
        "    return [judge(each) for each in completions]\n\n\nasync def later(completions, **kwargs):\n"
        "    return now(completions)\n\n\ndef library(completions, **kwargs):\n    return re.compile('(')\n"
    )
    (folder / "sleepy.py").write_text("def judge(text):\n    raise ValueError('the judge\\nfell asleep')\n")
    asleep = "ValueError: the judge (asleep.py:6)"
    named = {"now": asleep, "later": asleep, "library": "(asleep.py:14)"}
    for name, said in named.items():
        _, finding = only(load_reward(f"asleep.py:{name}"))
        assert said in finding.message
    monkeypatch.chdir(folder / "pack")
    assert f"({folder}/asleep.py:6)" in only(load_reward("../asleep.py:now"))[1].message
    assert raised_at(KeyError("x")) == "KeyError: 'x'"


def test_one_that_raises_only_on_batches_is_a_finding():
    def single(completions, **kwargs):
        if len(completions) > 1:
            raise ValueError("one at a time")
        return [1.0]

    report, finding = only(single)
    assert report is None
    assert finding.code == "D501"
    assert "on none of them alone" in finding.message


def test_a_column_that_is_missing_is_named_beside_those_that_are_there():
    def needs(completions, solution, **kwargs):
        return [0.0] * len(completions)

    report, finding = only(needs)
    assert report is None
    assert (finding.code, finding.row) == ("D501", None)
    assert finding.message == (
        "needs 'solution', which is no column of the data; the columns are: prompt, answer, level"
    )


def test_a_signature_that_trl_can_not_call_is_a_finding():
    def without_rest(completions, answer):
        return accuracy(completions, answer)

    def by_position(completions, /, **kwargs):
        return [0.0] * len(completions)

    assert "doesn't take prompts, completion_ids, trainer_state, " in only(without_rest)[1].message
    assert "add **kwargs" in only(without_rest)[1].message
    assert "takes completions by position only" in only(by_position)[1].message


WRONG_SHAPES = {
    "too few": (lambda completions, **kw: [1.0], "returns 1 reward for 12 completions"),
    "a number": (lambda completions, **kw: 0.5, "returns 0.5 for 12 completions, not a list of 12 numbers"),
    "a text": (lambda completions, **kw: "good", "returns 'good' for 12 completions"),
    "a dict": (lambda completions, **kw: dict.fromkeys(range(12), 1.0), "returns {0: 1.0, 1: 1.0"),
    "nothing": (lambda completions, **kw: None, "returns None for 12 completions, not a list"),
    "texts": (lambda completions, **kw: ["1"] * len(completions), "returns '1' among the rewards, which is"),
    "lists": (lambda completions, **kw: [[1.0]] * len(completions), "among the rewards, which is not a"),
    "a table": (lambda completions, **kw: np.zeros((len(completions), 1)), "which is not a number"),
    "a scalar": (lambda completions, **kw: np.float32(1), "not a list of 12 numbers"),
    "a promise": (lambda completions, **kw: accuracy_later(completions, kw["answer"]), "returns a coroutine"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_SHAPES)
def test_what_is_no_list_of_numbers_is_a_finding(kind):
    function, said = WRONG_SHAPES[kind]
    report, finding = only(function)
    assert report is None
    assert (finding.code, finding.row) == ("D504", None)
    assert said in finding.message


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 10**400])
def test_a_reward_that_is_not_finite_is_a_finding(odd):
    def divides(completions, level, **kwargs):
        return [odd if n == 15 else len(content(each)) for each, n in zip(completions, level, strict=True)]

    report, finding = only(divides)
    assert (finding.code, finding.row) == ("D503", 5)
    assert finding.message.endswith(" for the reference answer (8 of its 8 sample completions)")
    assert report.num_endless == 8
    json.dumps(report.as_dict(), allow_nan=False)


def test_rewards_that_are_not_finite_are_counted_by_row_or_by_kind_of_completion():
    def of_rows(completions, level, **kwargs):
        return [math.nan if n in (12, 15) else 1.0 for n in level]

    def of_empty(completions, **kwargs):
        return [1.0 if content(each) else math.nan for each in completions]

    assert [(each.code, each.row) for each in check(of_rows)[1]] == [("D503", 2), ("D503", 5)]
    _, finding = only(of_empty)
    assert (finding.code, finding.row) == ("D503", None)
    said = "gives nan for an empty completion, whatever the row (12 of 96 sample completions)"
    assert finding.message == said


def test_none_for_everything_is_one_finding():
    report, finding = only(lambda completions, **kw: [None] * len(completions))
    assert (finding.code, finding.row, finding.message) == ("D502", None, "gives None for every completion")
    assert report.mean is None
    assert "no number" in report.said()


def test_none_for_some_is_counted():
    def shy(completions, answer, **kwargs):
        rewards = accuracy(completions, answer)
        return [
            None if not content(each) else reward for each, reward in zip(completions, rewards, strict=True)
        ]

    report, finding = only(shy)
    assert (finding.code, finding.row) == ("D502", None)
    said = "gives None for an empty completion, whatever the row (12 of 96 sample completions)"
    assert finding.message == said
    assert report.num_none == 12


def test_a_constant_reward_is_a_finding_with_its_value():
    report, finding = only(lambda completions, **kw: [0.25] * len(completions))
    assert (finding.code, finding.row) == ("D505", None)
    assert finding.message.startswith("gives 0.25 for each of 96 completions: the reference answer, ")
    assert report.mean == 0.25


def test_one_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(reward_calls, "TIME_LIMIT_S", 0.3)
    release = threading.Event()

    def waits(completions, **kwargs):
        release.wait(60)
        return [0.0] * len(completions)

    started = time.monotonic()
    report, finding = only(waits)
    release.set()
    assert time.monotonic() - started < 30
    assert report is None
    assert finding.code == "D501"
    assert finding.message == "did not return within 0.3 s, given the reference answer"


def test_one_that_hangs_on_a_row_is_given_up(monkeypatch):
    monkeypatch.setattr(reward_calls, "TIME_LIMIT_S", 0.3)
    release = threading.Event()

    def waits(completions, level, **kwargs):
        if len(completions) > 1:
            raise RuntimeError("one at a time, please")
        if level == [11]:
            release.wait(60)
        return [0.0]

    report, finding = only(waits)
    release.set()
    assert report is None
    assert (finding.code, finding.row) == ("D501", 1)


def test_a_slow_one_is_a_finding(monkeypatch):
    monkeypatch.setattr("tunesmith.data.checks.rewards.SLOW_S", 0.05)

    def slow(completions, answer, **kwargs):
        time.sleep(0.06)
        return accuracy(completions, answer)

    report, finding = only(slow)
    assert (finding.code, finding.row) == ("D506", None)
    assert finding.message == "takes 0.1 s for 12 completions"
    assert report.calls_per_s < 300


def test_what_it_prints_reaches_nobody():
    code = """
        import os, subprocess, sys, threading, time
        from tunesmith.data.checks import reward_calls
        from tunesmith.data.checks.rewards import check_reward
        reward_calls.TIME_LIMIT_S = 0.5
        def loud(completions, level, **kwargs):
            print("NOISE"); print("NOISE", file=sys.stderr); sys.stdout.write("NOISE")
            subprocess.run([sys.executable, "-c", "print('NOISE')"]); os.write(1, b"NOISE")
            if level == [1]:
                threading.Event().wait(1)
                print("NOISE")
            return [float(len(each)) for each in completions]
        rows = [{"prompt": "p", "level": n} for n in (2, 3)]
        reward_calls.TIME_LIMIT_S = 60
        print(check_reward(loud, "loud", rows)[1])
        reward_calls.TIME_LIMIT_S = 0.5
        print(check_reward(loud, "loud", [{"prompt": "p", "level": 1}])[1][0].code)
        time.sleep(1.5)
        print("after")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["[]", "D501", "after"]
    assert "NOISE" not in done.stderr


def test_one_that_needs_signals_is_called_on_the_main_thread():
    def with_alarm(completions, answer, **kwargs):
        import signal

        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(0)
        return accuracy(completions, answer)

    assert codes(with_alarm) == []


# Reference answers.


@pytest.mark.parametrize("gone", [None, "", " \u200b\n", []])
def test_a_reference_that_is_blank_is_a_finding_of_its_row(gone):
    rows = [dict(row) for row in CHAT_ROWS]
    rows[4]["answer"] = gone
    report, finding = only(accuracy, rows, row_numbers=range(100, 112))
    assert (finding.code, finding.row) == ("D106", 104)
    assert finding.message == "column 'answer' is empty: there is nothing to judge completions by"
    assert report.num_rows == NUM_ROWS - 1


def test_a_blank_reference_that_no_one_reads_is_fine():
    rows = [dict(row) for row in CHAT_ROWS]
    rows[4]["answer"] = None
    assert codes(by_length, rows) == []
    # Read, but not by name.
    assert codes(by_keyword, rows) == ["D106"]


def as_numbers(completions, answer, **kwargs):
    found = [re.findall("\\d+", content(each)) for each in completions]
    return [float(bool(each) and each[-1] == truth) for each, truth in zip(found, answer, strict=True)]


def test_a_reference_that_the_reward_can_not_read_is_a_finding_of_its_row():
    rows = [dict(row) for row in CHAT_ROWS]
    rows[7]["answer"] = "thirty-four"
    _, finding = only(as_numbers, rows)
    assert (finding.code, finding.row) == ("D106", 7)
    said = "can't read the reference answer 'thirty-four': it gets 0, and an empty completion 0"
    assert finding.message == said


def test_a_reference_for_which_it_gives_none_is_a_finding_of_its_row():
    def skips(completions, answer, **kwargs):
        rewards = as_numbers(completions, answer)
        return [each if truth.isdigit() else None for each, truth in zip(rewards, answer, strict=True)]

    rows = [dict(row) for row in CHAT_ROWS]
    rows[7]["answer"] = "thirty-four"
    _, finding = only(skips, rows)
    assert (finding.code, finding.row) == ("D106", 7)
    assert finding.message.endswith("it gets None")
    assert finding.fix == "mend the answer, or let the reward read it"


def test_a_reference_on_which_it_raises_is_a_finding_of_its_row():
    def spells(completions, **kwargs):
        words = [content(each) for each in completions]
        return [float(len(each) if "thirty" not in each else int(each)) for each in words]

    rows = [dict(row) for row in CHAT_ROWS]
    rows[7]["answer"] = "thirty-four"
    _, finding = only(spells, rows)
    assert (finding.code, finding.row) == ("D106", 7)
    assert finding.message.startswith("raises ValueError: invalid literal for int()")
    assert finding.message.endswith(" for the reference answer, 'thirty-four'")


def test_a_row_on_which_it_raises_for_other_completions_too_is_no_matter_of_the_reference():
    def parses(completions, answer, **kwargs):
        pairs = [(content(each), float(truth)) for each, truth in zip(completions, answer, strict=True)]
        return [float(f"{truth:g}" in each) for each, truth in pairs]

    rows = [dict(row) for row in CHAT_ROWS]
    rows[7]["answer"] = "thirty-four"
    _, finding = only(parses, rows)
    assert (finding.code, finding.row) == ("D501", 7)


def test_a_column_that_trl_passes_itself_is_a_finding():
    assert (
        "no column may be named so" in only(accuracy, [{**row, "prompts": 1} for row in TEXT_ROWS])[1].message
    )


def test_references_that_the_reward_wants_in_another_form_are_not_blamed():
    def json_only(completions, answer, **kwargs):
        return [float(content(each) == json.dumps({"a": t})) + len(content(each)) * -0.01
                for each, t in zip(completions, answer, strict=True)]  # fmt: skip

    assert "D106" not in codes(json_only)


def test_one_that_draws_lots_is_not_taken_for_a_judge_of_references():
    chance = random.Random(1)
    report, findings = check(lambda completions, **kw: [chance.random() for _ in completions])
    assert findings == []
    assert report.reference_column is None


def test_the_column_of_the_references_can_be_given():
    rows = [{"prompt": row["prompt"], "truth": row["answer"]} for row in TEXT_ROWS]
    rows[3]["truth"] = None

    def against_truth(completions, truth, **kwargs):
        return accuracy(completions, truth)

    report, finding = only(against_truth, rows, reference="truth")
    assert (finding.code, finding.row) == ("D106", 3)
    assert report.mean_by_completion["the reference answer"] == 1


def test_the_column_that_a_reward_was_made_with_goes_before_the_one_of_the_data():
    rows = [{**row, "total": f"{row['answer']} in all"} for row in TEXT_ROWS]

    def against_total(completions, **kwargs):
        return accuracy(completions, kwargs["total"])

    against_total.reference_column = "total"
    report, findings = check(against_total, rows, reference="answer")
    assert findings == []
    assert report.reference_column == "total"


def test_a_reward_that_can_not_be_called_is_not_said_to_be_fast():
    def single(completions, level, **kwargs):
        if len(completions) > 1 or level == [13]:
            raise ValueError("one at a time")
        return [float(len(content(completions[0])))]

    report, _ = check(single)
    assert report.calls_per_s is None


def test_numbers_and_lists_are_references_too():
    rows = [{"prompt": "p", "answer": [int(row["answer"]), 0]} for row in TEXT_ROWS]

    def accept(completions, answer, **kwargs):
        return [float(str(truth[0]) in each) for each, truth in zip(completions, answer, strict=True)]

    report, findings = check(accept, rows)
    assert findings == []
    assert report.mean_by_completion["the reference answer"] == 1


def test_without_rows_there_is_nothing_to_say():
    assert check(accuracy, []) == (None, [])


# Loading.

SOURCE = """
from dataclasses import dataclass
from beside import BONUS
print("NOISE")

def accuracy(completions, answer, **kwargs):
    from beside import later
    return [later(each) + BONUS for each in completions]

@dataclass
class Judge:
    weight: float = 1.0
    def __call__(self, completions, **kwargs):
        return [self.weight] * len(completions)
    def method(self, completions, **kwargs):
        return [0.5] * len(completions)

judge = Judge()
number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with rewards, to be in; what was imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_rewards.py").write_text(SOURCE)
    (tmp_path / "beside.py").write_text("BONUS = 1\ndef later(text): return float(len(text))\n")
    (tmp_path / "broken.py").write_text("import os\n\nraise RuntimeError('no licence\\nfor this')\n")
    (tmp_path / "wrong.py").write_text("def f(:\n    pass\n")
    (tmp_path / "needy.py").write_text("import no_such_package_here\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "notes.txt").write_text("no code")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "inner.py").write_text(
        "def f(completions, **kwargs): return [0.0] * len(completions)\n"
    )
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_reward_is_found_in_a_file_and_in_a_module(folder, capfd):
    for name in (
        "my_rewards.py:accuracy",
        f"{folder}/my_rewards.py:accuracy",
        "./my_rewards.py:accuracy",
        "my_rewards:accuracy",
    ):
        assert load_reward(name)(["abc"], ["x"]) == [4.0]
    assert load_reward("my_rewards.py:judge")(["abc"]) == [1.0]
    assert load_reward("my_rewards.py:judge.method")(["abc"]) == [0.5]
    assert load_reward("pack.inner:f")(["abc"]) == [0.0]
    assert load_reward("my_rewards.py:judge") is load_reward("my_rewards.py:judge")
    assert "NOISE" not in "".join(capfd.readouterr())


def test_two_files_of_one_name_stay_apart(folder):
    (folder / "pack" / "my_rewards.py").write_text("def accuracy(completions, **kwargs): return ['other']\n")
    first = load_reward("my_rewards.py:accuracy")
    assert load_reward("pack/my_rewards.py:accuracy")([]) == ["other"]
    assert load_reward("my_rewards.py:accuracy")(["abc"], []) == first(["abc"], []) == [4.0]


UNLOADABLE = {
    "my_rewards.py": "'my_rewards.py' names no function",
    "my_rewards.py:": "names no function",
    ":f": "names no function",
    "missing.py:f": "there is no file missing.py",
    "missing/my_rewards.py:f": "there is no file missing/my_rewards.py",
    "notes.txt:f": "notes.txt is no Python file",
    "pack/:f": "there is no file pack/",
    "no_such_package_here:f": "there is no module no_such_package_here",
    "pack.none:f": "there is no module pack.none",
    "my_rewards.py:acuracy": "my_rewards.py has no 'acuracy'; did you mean accuracy?",
    "pack.inner:g": "pack.inner has no 'g'",
    "my_rewards.py:judge.none": "my_rewards.py has no 'judge.none'",
    "my_rewards.py:number": "'number' of my_rewards.py is of type int, no function",
    "my_rewards.py:Judge": "'Judge' of my_rewards.py is a class, not a function",
    "broken.py:f": "broken.py can't be imported: RuntimeError: no licence",
    "broken:f": "broken can't be imported: RuntimeError: no licence",
    "wrong.py:f": "wrong.py can't be imported: SyntaxError: ",
    "needy.py:f": "needy.py can't be imported: ModuleNotFoundError: No module named 'no_such_package_here'",
    "needy:f": "needy can't be imported: ModuleNotFoundError: No module named 'no_such_package_here'",
    "leaves.py:f": "leaves.py can't be imported: SystemExit: 3",
    "..:f": "",
    ".rewards:f": "",
    "a b:f": "there is no module a b",
}


@pytest.mark.parametrize("name", UNLOADABLE)
def test_a_name_that_fails_is_a_sentence(name, folder):
    with pytest.raises(ConfigError) as refused:
        load_reward(name)
    error = refused.value
    assert UNLOADABLE[name] in error.message
    assert "\n" not in error.message
    assert error.where
    assert error.fix


def test_names_that_are_not_listed_are_counted(folder):
    (folder / "many.py").write_text("".join(f"def f{n}(**kwargs): pass\n" for n in range(11)))
    with pytest.raises(ConfigError) as refused:
        load_reward("many.py:zzz")
    assert refused.value.message == "many.py has no 'zzz'"
    assert refused.value.fix == "it has f0, f1, f2, f3, f4, f5, f6, f7 and 3 more"


def test_the_line_that_fails_is_named(folder):
    for name, line in (("broken.py", 3), ("wrong.py", 1), ("needy.py", 1)):
        with pytest.raises(ConfigError) as refused:
            load_reward(f"{name}:f")
        assert refused.value.where == f"{name}:{line}"
