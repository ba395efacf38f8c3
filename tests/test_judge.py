"""Rewards that go wrong in the middle of a run, or say nothing: the run ends with a sentence and a way on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from method_data import options_for, write_method_data
from running import Ran, record_of, rows_of, tunesmith

RUN = Path("runs/one")
SOUND = """
def score(completions, **kwargs):
    return [-len(set(each[-1]["content"])) / 10 for each in completions]
"""
# A reward that is sound when it is tried, and in the first two steps.
LATE = """
import asyncio, math

def good(completions):
    return [-len(set(each[-1]["content"])) / 10 for each in completions]

{kind} score(completions, trainer_state, **kwargs):
    if trainer_state.global_step < 2:
        return good(completions)
    {fault}
"""
FAULTS = {
    "raises": ("raise RuntimeError('the sandbox is full')", "raised RuntimeError: the sandbox is full"),
    "leaves": ("raise SystemExit(3)", "raised SystemExit: 3"),
    "NaN": ("return [0.0, math.nan, 0.0, 0.0]", "gives nan for "),
    "infinity": ("return [0.0, 0.0, 0.0, math.inf]", "gives inf for "),
    "too few": ("return [1.0]", "returns 1 reward for 4 completions"),
    "a number": ("return 1.0", "returns 1.0 for 4 completions, not a list of 4 numbers"),
    "nothing": ("return None", "returns None for 4 completions, not a list of 4 numbers"),
    "a text": ("return 'good'", "returns 'good' for 4 completions, not a list of 4 numbers"),
    "texts": ("return ['1', '2', '3', '4']", "returns '1' among the rewards, which is not a number"),
    "a coroutine": ("return asyncio.sleep(0, [1.0] * 4)", "returns a coroutine"),
    "hangs": ("while True: pass", "raised TimeoutError: it did not return within 0.2 s"),
    "a lazy list that raises": (
        "return (1 / 0 for _ in completions)", "raised ZeroDivisionError: division by zero",
    ),
}  # fmt: skip
ASYNC_FAULTS = {
    "raises": ("raise RuntimeError('the judge is down')", "raised RuntimeError: the judge is down"),
    "NaN": ("return [math.nan] * 4", "gives nan for "),
    "hangs": ("await asyncio.sleep(3600)", "raised TimeoutError"),
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_method_data(tmp_path, 12)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_reward(text: str) -> None:
    """Write rewards.py; what this process has read of an earlier one is forgotten, as a new process would."""
    Path("rewards.py").write_text(text, encoding="utf-8")
    sys.modules.pop("tunesmith_reward_rewards", None)


def train(model: Path, *options: str, method: str = "grpo") -> Ran:
    return tunesmith(
        "train", *options_for(method, model), "--max-steps", "5", "--rewards", "rewards.py:score",
        "--run-dir", RUN, *options,
    )  # fmt: skip


def completions() -> list[dict]:
    return [json.loads(line) for line in (RUN / "completions.jsonl").read_text().splitlines()]


def says_why_and_can_go_on(ran: Ran, said: str) -> None:
    """The run stopped after two whole steps, with a sentence, and is done once the reward is mended."""
    assert ran.code == 4, ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert f"reward score {said}" in ran.err
    assert "checkpoint at step 2 is written" in ran.err
    assert "Mend the reward first" in ran.err
    assert f"resume with: tunesmith resume {RUN}" in ran.err
    record = record_of(RUN)
    assert (record["status"], record["stopped_by"], record["step"]) == ("stopped", "reward", 2)
    assert [each.name for each in (RUN / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]
    assert not (RUN / "model").exists()
    write_reward(SOUND)
    resumed = tunesmith("resume", RUN, "--json")
    assert resumed.code == 0, resumed.err
    assert (resumed.document["resumed_from"], resumed.document["step"]) == (2, 5)
    assert record_of(RUN)["status"] == "done"
    assert (RUN / "model").is_dir()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reward_that_fails_in_the_middle_stops_the_run_with_a_checkpoint(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, fault: str
):
    monkeypatch.setattr("tunesmith.train.judge.TIME_LIMIT_S", 0.2)
    line, said = FAULTS[fault]
    write_reward(LATE.format(kind="def", fault=line))
    says_why_and_can_go_on(train(tiny_model), said)


@pytest.mark.parametrize("fault", ASYNC_FAULTS)
def test_an_async_reward_that_fails_stops_the_run_just_so(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, fault: str
):
    monkeypatch.setattr("tunesmith.train.judge.TIME_LIMIT_S", 0.2)
    line, said = ASYNC_FAULTS[fault]
    write_reward(LATE.format(kind="async def", fault=line))
    says_why_and_can_go_on(train(tiny_model), said)


# Rewards that are busy for two seconds, ten times the limit.
BUSY = """
import time

def busy(until):
    while time.monotonic() < until:
        pass

def good(completions):
    return [-len(set(each[-1]["content"])) / 10 for each in completions]
"""
RETRIES = """
def score(completions, trainer_state, **kwargs):
    until = time.monotonic() + 2
    while trainer_state.global_step == 2 and time.monotonic() < until:
        try:
            busy(until)
        except Exception:
            pass
    return good(completions)
"""
BLOCKS = """
async def score(completions, trainer_state, **kwargs):
    if trainer_state.global_step == 2:
        busy(time.monotonic() + 2)
    return good(completions)
"""


@pytest.mark.parametrize("text", [RETRIES, BLOCKS], ids=["retries", "blocks"])
def test_a_reward_that_keeps_the_time_limit_from_being_heard_is_stopped_all_the_same(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, text: str
):
    monkeypatch.setattr("tunesmith.train.judge.TIME_LIMIT_S", 0.2)
    write_reward(BUSY + text)
    says_why_and_can_go_on(train(tiny_model), "raised TimeoutError: it did not return within 0.2 s")


def test_the_completion_that_got_no_number_is_named(tiny_model: Path):
    fault = """third = " ".join(completions[2][-1]["content"].split())
    pathlib.Path("third.txt").write_text(repr(third[:80]), encoding="utf-8")
    return [0.0, 1.0, math.nan, 0.0]"""
    write_reward("import pathlib\n" + LATE.format(kind="def", fault=fault))
    error = train(tiny_model, "--json").document["error"]
    assert (error["code"], error["where"]) == ("stopped", str(RUN))
    named = Path("third.txt").read_text(encoding="utf-8")
    assert len(named) > 2
    assert f"reward score gives nan for {named}; checkpoint at step 2 is written" in error["message"]


def test_a_reward_that_fails_at_the_first_step_leaves_a_run_that_starts_again(tiny_model: Path):
    # The first trial is before the model is loaded, with max_steps of its own.
    write_reward(LATE.format(kind="def", fault="").replace("global_step < 2", "max_steps != 5"))
    ran = train(tiny_model)
    assert ran.code == 4, ran.err
    assert "there is no checkpoint yet" in ran.err
    write_reward(SOUND)
    resumed = tunesmith("resume", RUN)
    assert resumed.code == 0, resumed.err
    assert "starting from step 0" in resumed.err
    assert record_of(RUN)["status"] == "done"


def test_async_rewards_work_beside_others(tiny_model: Path):
    write_reward(
        SOUND + "\nasync def judge(completions, **kwargs):\n    return [1.0, 2.0] * (len(completions) // 2)\n"
    )
    Path("run.yaml").write_text(
        "rewards: [{function: rewards.py:score}, {function: rewards.py:judge, weight: 0.5}]"
    )
    arguments = options_for("grpo", tiny_model)
    at = arguments.index("--rewards")
    del arguments[at : at + 2]
    ran = tunesmith("train", "grpo", "run.yaml", *arguments[1:], "--run-dir", RUN)
    assert ran.code == 0, ran.err
    assert set(rows_of(RUN, "rewards/judge/mean").values()) == {1.5}
    assert all(set(each["rewards"]) == {"score", "judge"} for each in completions())


def test_trl_s_reward_is_the_weighted_sum_and_rewards_of_one_name_are_numbered(tiny_model: Path):
    write_reward(SOUND)
    Path("other.py").write_text(SOUND.replace("/ 10", "* 1.5"), encoding="utf-8")
    Path("run.yaml").write_text(
        "rewards: [{function: rewards.py:score, weight: 2}, {function: other.py:score, weight: -0.5}]"
    )
    arguments = options_for("grpo", tiny_model)
    at = arguments.index("--rewards")
    del arguments[at : at + 2]
    ran = tunesmith("train", "grpo", "run.yaml", *arguments[1:], "--run-dir", RUN)
    assert ran.code == 0, ran.err
    assert "score (weight 2); score_2 (weight -0.5)" in ran.err
    first, second = (rows_of(RUN, f"rewards/{name}/mean") for name in ("score", "score_2"))
    for step, reward in rows_of(RUN, "reward").items():
        assert second[step] == pytest.approx(15 * first[step])
        assert reward == pytest.approx(2 * first[step] - 0.5 * second[step])
    for row in completions():
        assert row["reward"] == pytest.approx(2 * row["rewards"]["score"] - 0.5 * row["rewards"]["score_2"])


def test_best_and_worst_answer_of_the_group_that_differs_most_are_kept(tiny_model: Path):
    # Two groups of two: the second one differs more.
    write_reward(
        "def score(completions, **kwargs):\n    return ([4.0, 5.0, -2.0, 1.0] * len(completions))"
        "[:len(completions)]\n"
    )
    ran = train(tiny_model, "--max-steps", "3")
    assert ran.code == 0, ran.err
    rows = completions()
    assert [(each["step"], each["reward"]) for each in rows] == [
        (step, reward) for step in (1, 2, 3) for reward in (1.0, -2.0)
    ]
    prompts = [
        json.loads(line)["prompt"][0]["content"] for line in Path("prompts.jsonl").read_text().splitlines()
    ]
    for best, worst in zip(rows[::2], rows[1::2], strict=True):
        assert best["prompt"] == worst["prompt"]
        assert best["prompt"] in prompts
        assert best["rewards"] == {"score": 1.0}
        assert isinstance(best["completion"], str)
        assert best["num_steps"] == 3
    assert "answered" in ran.err


def test_answers_of_an_evaluation_are_not_kept_as_those_of_a_training_step(tiny_model: Path):
    write_reward(SOUND)
    ran = train(tiny_model, "--max-steps", "2", "--test-size", "4", "--eval-steps", "1")
    assert ran.code == 0, ran.err
    assert max(each["step"] for each in completions()) == 2
    assert len(completions()) <= 2 * 2


CONSTANT = "def score(completions, **kwargs):\n    return [{value}] * len(completions)\n"
SIGNALLESS = ("--max-steps-without-signal", "2")


@pytest.mark.parametrize(
    ("method", "options"),
    [("grpo", ()), ("grpo", ("--set", "trl.beta=0.1")), ("rloo", ()), ("rloo", ("--set", "trl.beta=0.2"))],
)
def test_a_reward_that_never_differs_stops_the_run_and_says_what_to_change(
    tiny_model: Path, method: str, options: tuple[str, ...]
):
    write_reward(CONSTANT.format(value=0.25))
    ran = train(tiny_model, *SIGNALLESS, *options, method=method)
    assert ran.code == 4, ran.err
    assert "D505" in ran.err  # it was warned of before
    assert "no signal in 2 steps: all answers to a prompt got the same reward" in ran.err
    for advice in ("easier prompts", "partial credit", "num_generations", "temperature", "harder prompts"):
        assert advice in " ".join(ran.err.split())
    assert "checkpoint at step 2 is written" in ran.err
    record = record_of(RUN)
    assert (record["status"], record["stopped_by"], record["step"]) == ("stopped", "no signal", 2)
    write_reward(SOUND)
    resumed = tunesmith("resume", RUN)
    assert resumed.code == 0, resumed.err
    assert record_of(RUN)["step"] == 5


def test_the_average_that_is_told_is_the_reward_s(tiny_model: Path):
    write_reward(CONSTANT.format(value=0.25))
    assert "the same reward, 0.25 on average" in train(tiny_model, *SIGNALLESS).err


def test_a_reward_that_says_none_of_everything_stops_the_run_as_one_without_signal(tiny_model: Path):
    write_reward(LATE.format(kind="def", fault="return [None] * len(completions)"))
    ran = train(tiny_model, *SIGNALLESS)
    assert ran.code == 4, ran.err
    assert "checkpoint at step 4 is written" in ran.err
    assert "None" in ran.err.partition("no signal in 2 steps")[2]
    # No numbers have no spread: TRL's own metric takes such groups for live ones.
    assert {rows_of(RUN, "frac_reward_zero_std")[step] for step in (3, 4)} == {1.0}
    assert "dead groups 1.000" in ran.err


def test_more_patience_lets_a_run_without_signal_go_on_to_its_end(tiny_model: Path):
    write_reward(CONSTANT.format(value=1.0))
    ran = train(tiny_model, "--max-steps-without-signal", "6")
    assert ran.code == 0, ran.err
    assert set(rows_of(RUN, "frac_reward_zero_std").values()) == {1.0}
    assert "nothing was learned: in none of 5 steps did rewards of a group differ" in ran.err


def test_a_run_too_short_to_be_stopped_says_that_nothing_was_learned(tiny_model: Path):
    write_reward(CONSTANT.format(value=0.0))
    assert "nothing was learned" in train(tiny_model, "--max-steps", "2").err
    write_reward(SOUND)
    assert "nothing was learned" not in train(tiny_model, "--max-steps", "2", "--run-dir", "runs/sound").err


def test_a_signal_now_and_then_is_enough(tiny_model: Path):
    write_reward(
        "def score(completions, trainer_state, **kwargs):\n"
        "    live = trainer_state.global_step % 2\n"
        "    return [live * i / 7 for i in range(len(completions))]\n"
    )
    ran = train(tiny_model, *SIGNALLESS)
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("def score(completions):\n    return [1.0]", "D501", "add **kwargs"),
        ("def score(completions, topic, **kwargs):\n    return [1.0]", "D501", "'topic'"),
        ("def score(completions, **kwargs):\n    raise KeyError('answer')", "D501", "KeyError"),
        ("def score(completions, **kwargs):\n    return [float('nan')] * len(completions)", "D503", "nan"),
        ("def score(completions, **kwargs):\n    return 1.0", "D504", "not a list"),
        ("def score(completions, **kwargs):\n    return ['yes'] * len(completions)", "D504", "not a number"),
    ],
)
def test_a_reward_is_tried_on_real_rows_before_a_model_is_loaded(
    tiny_model: Path, text: str, code: str, said: str
):
    write_reward(text)
    ran = train(tiny_model)
    assert ran.code == 2, ran.err
    assert f"[{code}]" in ran.err
    assert said in ran.err
    assert "loading the model" not in ran.err
    assert "Traceback" not in ran.err
    assert not Path("runs").exists()


def test_of_several_rewards_the_one_that_can_t_be_used_is_named(tiny_model: Path):
    write_reward(SOUND + "\ndef other(completions, **kwargs):\n    return 1.0\n")
    ran = train(tiny_model, "--rewards", "rewards.py:score,rewards.py:other")
    assert ran.code == 2, ran.err
    assert "reward other" in ran.err


def test_rewards_leave_the_user_s_alarm_as_it_was(tiny_model: Path):
    import signal

    before = signal.getsignal(signal.SIGALRM)
    write_reward(SOUND)
    assert train(tiny_model, "--max-steps", "1").code == 0
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
