"""The library of rewards: what each gives for right, wrong and odd answers, and how it is named and made."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from running import tunesmith
from tiny import write_jsonl

from tunesmith.config.loading import load_config
from tunesmith.config.run_config import DatasetSource, RewardSource
from tunesmith.data.checks import reward_calls
from tunesmith.data.checks.rewards import check_reward
from tunesmith.data.validate import Request, validate
from tunesmith.errors import ConfigError, DataError, MissingPackageError
from tunesmith.rewards import library
from tunesmith.rewards.completions import fenced, text_of
from tunesmith.rewards.loading import load, load_reward
from tunesmith.rewards.numeric_answer import readings
from tunesmith.train.judge import TIME_LIMIT_S


def made(function, **args):
    return load(RewardSource(function=function, args=args))


def judge(reward, completions, **columns):
    """Call it as TRL does, completions as text and as messages, which have to get the same."""
    given_by_trl = {
        "prompts": ["p"] * len(completions),
        "completion_ids": [list(range(len(each))) for each in completions],
        "trainer_state": None, "log_extra": print, "log_metric": print,
    }  # fmt: skip
    rewards = reward(completions=completions, **given_by_trl, **columns)
    messages = [[{"role": "assistant", "content": each}] for each in completions]
    assert reward(completions=messages, **given_by_trl, **columns) == rewards
    assert len(rewards) == len(completions)
    assert all(each is None or type(each) is float for each in rewards)
    return rewards


def one(reward, completion, **columns):
    return judge(reward, [completion], **{name: [value] for name, value in columns.items()})[0]


# What all of them share.


def test_the_text_of_a_completion_is_its_last_message():
    assert text_of("a") == text_of([{"role": "assistant", "content": "a"}]) == "a"
    turns = [{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]
    assert text_of([*turns, {"role": "assistant", "content": "c"}]) == "c"
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    assert text_of([{"role": "assistant", "content": parts}]) == "ab"
    for empty in ("", [], None, [{"role": "assistant", "content": None}], [{"role": "assistant"}], [None], 5):
        assert text_of(empty) == ""


def test_the_last_block_of_the_language_counts_and_one_that_is_cut_goes_to_the_end():
    text = "```python\na\n```\nso\n```py title=x\nb\n```\n```sh\nc\n```"
    assert fenced(text, ("python", "py")) == "b\n"
    assert fenced(text, ("json",)) == "c\n"
    assert fenced("see\n```json\n{", ("json",)) == "{"
    assert fenced("none", ("json",)) is None


def test_the_likeliest_reference_column_is_used_and_another_can_be_named():
    reward = load_reward("exact_answer")
    assert one(reward, "a", answer="a", label="b", solution="c") == 1
    assert one(reward, "a", label="b", target="a") == 1
    assert one(made("exact_answer", column="gold2"), "a", answer="b", gold2="a") == 1
    with pytest.raises(DataError, match="finds no column with reference answers") as refused:
        one(reward, "a", question="b")
    assert refused.value.where == "columns of the data: question"
    assert "--map reference=COLUMN" in refused.value.fix
    with pytest.raises(DataError, match="exact_answer finds no column 'gold2'") as refused:
        one(made("exact_answer", column="gold2"), "a", answer="b")
    assert "--map" not in refused.value.fix


# exact_answer

EXACT = [
    ("Paris", "Paris", {}, 1),
    (" paris.\n", "Paris", {}, 1),
    ("“Paris!”", "paris", {}, 1),
    ("New   York\nCity", "new york city", {}, 1),
    ("Stra\u00dfe", "STRASSE", {}, 1),
    ("cafe\u0301", "Caf\u00e9", {}, 1),
    ("東京。", "東京", {}, 1),
    ("It is Paris", "Paris", {}, 0),
    ("", "Paris", {}, 0),
    ("", "?", {}, 0),
    ("!", "?", {}, 0),
    ("?", "?", {}, 1),
    ("5", "-5", {}, 0),
    ("50", "50%", {}, 0),
    ("C", "C#", {}, 0),
    (".5", "5", {}, 0),
    ("(a)", "a", {}, 0),
    ("paris", "Paris", {"casefold": False}, 0),
    ("Paris.", "Paris", {"trim_punctuation": False}, 0),
    (" Paris", "Paris", {"strip": False, "trim_punctuation": False}, 0),
    ("The answer is \\boxed{Paris}.", "Paris", {"marked": True}, 1),
    ("<answer>\nParis\n</answer>", "Paris", {"marked": True}, 1),
    ("Paris", "Paris", {"marked": True}, 0),
    ("b", ["a", "b"], {}, 1),
    ("c", ["a", "b"], {}, 0),
    ("3", 3, {}, 1),
    ("true", True, {}, 1),
    ("a", None, {}, None),
    ("a", "  ", {}, None),
    ("a", [], {}, None),
    ("a", math.nan, {}, None),
]  # fmt: skip


@pytest.mark.parametrize(("completion", "reference", "args", "reward"), EXACT)
def test_exact_answer(completion, reference, args, reward):
    assert one(made("exact_answer", **args), completion, answer=reference) == reward


# numeric_answer

NUMERIC = [
    ("72", "72", 1),
    ("The answer is 72.", "72", 1),
    ("First 24, then 72", "72", 1),
    ("72 at first, but then 24", "72", 0),
    ("72 clips in all", "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n#### 72", 1),
    ("Let me see.\n#### 72\nDone in 3 steps", "72", 1),
    ("#### 5 apples", "5", 1),
    ("\\boxed{72} took 3 steps", "72", 1),
    ("\\boxed{1} no, \\boxed{\\text{is } 72} of 100", "72", 1),
    ("\\boxed{\\frac{3}{4}}", "0.75", 1),
    ("$\\boxed{\\dfrac{-3}{4}}$", "-3/4", 1),
    ("2\\frac{1}{2}", "2.5", 1),
    ("\\frac12", "0.5", 1),
    ("<think>5</think><answer>72</answer>", "72", 1),
    ("<answer>71</answer>72", "72", 0),
    ("\\boxed{x} 72", "72", 0),
    ("\\boxed{72", "72", 1),
    ("1,234,567", "1234567", 1),
    ("1,234.50", "1234.5", 1),
    ("1{,}234", "1234", 1),
    ("1\u202f234\u202f567", "1234567", 1),
    ("1'234", "1234", 1),
    ("12,34", "1234", 0),
    ("1,2345", "2345", 1),
    ("$1,000", "1000", 1),
    ("-$5", "-5", 1),
    ("€5.00", "5", 1),
    ("\\$18", "18", 1),
    ("3/4", "0.75", 1),
    ("6 / 8", "3/4", 1),
    ("1 3/4 cups", "1.75", 1),
    ("½", "0.5", 1),
    ("2½", "2.5", 1),
    ("1/0", "1", 0),
    ("12/25/2024", "2024", 1),
    ("1/3", "0.3333333333333333", 1),
    ("0.3333", "1/3", 0),
    ("75%", "75", 1),
    ("75%", "0.75", 1),
    ("0.75", "75%", 1),
    ("75", "75 percent", 1),
    ("75\\%", "3/4", 1),
    ("7.5%", "75", 0),
    ("-5", "-5", 1),
    ("−5", "-5", 1),
    ("–5", "-5", 1),
    ("5", "-5", 0),
    ("x = -5", "-5", 1),
    ("x=-5", "-5", 1),
    ("10-5", "5", 1),
    ("pages 3–7", "7", 1),
    ("+5", "5", 1),
    (".5", "0.5", 1),
    ("5.", "5", 1),
    ("is.5", "5", 1),
    ("1e3", "1000", 1),
    ("1.5E-3", "0.0015", 1),
    ("1.5 × 10^3", "1500", 1),
    ("1.5 \\times 10^{-3}", "0.0015", 1),
    ("2 x 10^6", "2000000", 1),
    ("3·10⁸", "300000000", 1),
    ("10^6", "1e6", 1),
    ("5e", "5", 1),
    ("3rd", "3", 1),
    ("答案是72元", "72", 1),
    ("７２", "72", 1),
    ("٧٢", "72", 1),
    ("5 km in H2O", "5", 1),
    ("version 1.2.3", "1.2", 1),
    ("1e999999", "1e999999", None),
    ("9" * 5000, "72", 0),
    ("nan", "72", 0),
    ("", "72", 0),
    ("none", "72", 0),
    ("123456789012", "123456789013", 0),
    ("72", 72, 1),
    ("72", 72.0, 1),
    ("0", 0, 1),
    ("-0", 0, 1),
    ("72", ["71", "72"], 1),
    ("72", "no number", None),
    ("72", None, None),
    ("72", "", None),
    ("72", True, None),
    ("72", math.inf, None),
]  # fmt: skip


@pytest.mark.parametrize(("completion", "reference", "reward"), NUMERIC)
def test_numeric_answer(completion, reference, reward):
    assert one(load_reward("numeric_answer"), completion, answer=reference) == reward


def test_tolerances_let_near_numbers_pass():
    assert one(made("numeric_answer", tolerance=0.01), "3.14", answer="3.1416") == 1
    assert one(made("numeric_answer", tolerance=0.001), "3.14", answer="3.1416") == 0
    assert one(made("numeric_answer", relative_tolerance=0.01), "1005", answer="1000") == 1
    assert one(made("numeric_answer", relative_tolerance=0.001), "1005", answer="1000") == 0


FORMS = [
    "{}", "The answer is {}.", "<answer>\n{}\n</answer>", "so $\\boxed{{{}}}$.", "2 + 2 = 5\n#### {}",
    "**{}**", "= {}", "({})", "答案是{}", "{} apples", "\\boxed{{x = {}}} of 9", "「{}」", "It costs ${}!",
]  # fmt: skip
RENDERINGS = ["{!r}", "{:.3f}", "{:,.2f}", "{:e}", "{:,.0f}", "{:+.1f}"]


@settings(max_examples=300, deadline=None)
@given(
    st.floats(-1e15, 1e15), st.sampled_from(RENDERINGS), st.sampled_from(FORMS), st.sampled_from(["-", "−"])
)
@example(1e16, "{!r}", "{}", "-")
@example(5e-324, "{!r}", "The answer is {}.", "-")
@example(-1234.5, "{:,.2f}", "It costs ${}!", "−")
def test_any_number_is_read_in_any_form(number, rendering, form, minus):
    said = rendering.format(number)
    value = float(said.replace(",", ""))
    assert readings(form.format(said.replace("-", minus))) == (value,)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789,./%-−+eEx^{}\\$ #\n½⁸fracboxed<answer>/", max_size=60))
def test_any_text_is_read_without_an_error(text):
    assert all(math.isfinite(value) for value in readings(text))


@pytest.mark.parametrize(
    "text", ["1" * 50_000, "1," * 25_000, "1 " * 25_000, "1/" * 25_000, "\\boxed{" * 5_000, "#" * 50_000,
             "-" * 50_000, "<answer>" * 5_000, "1.1" * 15_000, "\\frac{" * 8_000, "123," * 12_000,
             " " * 50_000, "\\boxed{" * 5_000 + "}" * 5_000, "<answer>5</answer>" * 3_000,
             "10^" * 15_000, "1 1 " * 12_000, "{" * 50_000, "```" * 15_000],
)  # fmt: skip
def test_long_and_repetitive_texts_are_read_in_no_time(text):
    started = time.perf_counter()
    readings(text)
    fenced(text, ("json",))
    one(made("exact_answer", marked=True), text, answer="5")
    one(load_reward("format"), text)
    assert time.perf_counter() - started < 2


# json_schema

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/age"}},
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"age": {"type": "integer", "minimum": 0}},
}
JSON = [
    ('{"name": "Ada"}', 1),
    ('{"name": "Ada", "age": 36}', 1),
    ('\n {"name": "Åda \\u00e9 \\ud83d\\ude00"}\n', 1),
    ('Here:\n```json\n{"name": "Ada"}\n```\nDone.', 1),
    ('```\n{"name": "Ada"}\n```', 1),
    ('```json\n{"name": 1}\n```\n```json\n{"name": "Ada"}\n```', 1),
    ('{"name": "Ada", "age": -1}', 0.2),
    ('{"name": "Ada", "age": "36"}', 0.2),
    ('{"age": 36}', 0.2),
    ('{"name": "Ada", "x": 1}', 0.2),
    ("[]", 0.2),
    ("null", 0.2),
    ("[" * 500 + "]" * 500, 0.2),
    ("", 0),
    ("Ada", 0),
    ('{"name": "Ada"', 0),
    ("{'name': 'Ada'}", 0),
    ('{"name": "Ada",}', 0),
    ('{"name": NaN}', 0),
    ('Here: {"name": "Ada"}', 0),
    ("[" * 100_000, 0),
    ("1" * 5_000, 0),
]  # fmt: skip


@pytest.mark.parametrize(("completion", "reward"), JSON)
def test_json_schema(completion, reward):
    assert one(made("json_schema", schema=SCHEMA), completion) == reward


def test_partial_credit_and_fences_can_be_set():
    assert one(made("json_schema", schema=SCHEMA, parses=0), "{}") == 0
    assert one(made("json_schema", schema=SCHEMA, parses=0.5), "{}") == 0.5
    assert one(made("json_schema", schema=SCHEMA, fence=False), '```json\n{"name": "Ada"}\n```') == 0


def test_the_schema_may_stand_in_a_file_or_in_a_column(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    assert one(made("json_schema", schema_path=str(path)), '{"name": "Ada"}') == 1
    reward = made("json_schema", column="shape")
    shapes = [SCHEMA, json.dumps(SCHEMA), '{"type": "array"}', None, "", "no json", '{"type": 3}', "[]"]
    given_rewards = judge(reward, ['{"name": "Ada"}'] * len(shapes), shape=shapes)
    assert given_rewards == [1, 1, 0.2, None, None, None, None, None]


BAD_SCHEMAS = [
    ({}, "json_schema needs schema, schema_path or column"),
    ({"schema": {}, "column": "a"}, "json_schema takes one of schema, column"),
    ({"schema": {"type": "strng"}}, "that is no JSON schema: "),
    ({"schema": {"$ref": "#/$defs/none"}}, "that is no JSON schema: "),
    ({"schema": {"$ref": "https://example.com/schema.json"}}, "that is no JSON schema: "),
    ({"schema_path": "none.json"}, "the schema none.json can't be read: "),
    ({"schema": "x"}, "schema of json_schema is 'x': "),
    ({"schema": {}, "parses": 2}, "parses of json_schema is 2: "),
]  # fmt: skip


@pytest.mark.parametrize(("args", "message"), BAD_SCHEMAS)
def test_a_schema_that_is_none_is_a_sentence(args, message):
    with pytest.raises(ConfigError) as refused:
        made("json_schema", **args)
    assert message in refused.value.message
    assert "\n" not in refused.value.message
    assert refused.value.fix


def test_without_the_package_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(MissingPackageError) as refused:
        made("json_schema", schema={})
    assert refused.value.fix == 'pip install "jsonschema>=4.23"'


# regex

REGEX = [
    (r"\d+", False, "about 12", 1),
    (r"\d+", True, "about 12", 0),
    (r"\d+", True, "12", 1),
    (r"\d+", True, "12\n", 0),
    (r"(?i)YES", False, "oh yes", 1),
    (r"yes", False, "YES", 0),
    (r"é", False, "caf\u00e9", 1),
    (r"(?s)a.b", False, "a\nb", 1),
    (r"a.b", False, "a\nb", 0),
    (r"^$", False, "", 1),
    (r"x", False, "", 0),
]


@pytest.mark.parametrize(("pattern", "full_match", "completion", "reward"), REGEX)
def test_regex(pattern, full_match, completion, reward):
    assert one(made("regex", pattern=pattern, full_match=full_match), completion) == reward


# format

FORMATS = [
    ("<think>a</think><answer>b</answer>", {}, 1),
    ("<think>\na\n</think>\n\n<answer>\nb\n</answer>\n", {}, 1),
    ("<think></think><answer>b</answer>", {}, 1),
    ("<think>日本</think><answer>é</answer>", {}, 1),
    ("<think>a <b>bold</b></think><answer>1 < 2</answer>", {}, 1),
    ("<think>a</think><answer> </answer>", {}, 0),
    ("<think>a</think><answer>b", {}, 0),
    ("<think>a<answer>b</answer></think>", {}, 0),
    ("<answer>b</answer><think>a</think>", {}, 0),
    ("<think>a</think>so<answer>b</answer>", {}, 0),
    ("Well.<think>a</think><answer>b</answer>", {}, 0),
    ("<think>a</think><answer>b</answer> done", {}, 0),
    ("<think>a</think><think>a</think><answer>b</answer>", {}, 0),
    ("<think>a</think><answer>b</answer><answer>b</answer>", {}, 0),
    ("<think>the tag <answer> follows</think><answer>b</answer>", {}, 0),
    ("<THINK>a</THINK><ANSWER>b</ANSWER>", {}, 0),
    ("a</think><answer>b</answer>", {}, 0),
    ("", {}, 0),
    ("a</think><answer>b</answer>", {"opened": True}, 1),
    ("<think>a</think><answer>b</answer>", {"opened": True}, 0),
    ("<plan>a</plan><code>b</code>", {"tags": ["plan", "code"]}, 1),
    ("<think>a</think><answer>b</answer>", {"tags": ["plan", "code"]}, 0),
]


@pytest.mark.parametrize(("completion", "args", "reward"), FORMATS)
def test_format(completion, args, reward):
    assert one(made("format", **args), completion) == reward


# length

LENGTHS = [
    ({"target": 10}, 10, 1),
    ({"target": 10}, 5, 0.5),
    ({"target": 10}, 15, 0.5),
    ({"target": 10}, 0, 0),
    ({"target": 10}, 20, 0),
    ({"target": 10}, 500, 0),
    ({"max_tokens": 10}, 0, 1),
    ({"max_tokens": 10}, 5, 0.5),
    ({"max_tokens": 10}, 10, 0),
    ({"max_tokens": 10}, 50, 0),
    ({"max_tokens": 10, "free_tokens": 6}, 6, 1),
    ({"max_tokens": 10, "free_tokens": 6}, 8, 0.5),
    ({"max_tokens": 10, "free_tokens": 6}, 0, 1),
]


@pytest.mark.parametrize(("args", "num_tokens", "reward"), LENGTHS)
def test_length(args, num_tokens, reward):
    assert one(made("length", **args), "x" * num_tokens) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "length needs target or max_tokens"),
        ({"target": 5, "max_tokens": 9}, "length takes target or max_tokens, not both"),
        ({"target": 5, "free_tokens": 9}, "free_tokens has no meaning without max_tokens"),
        ({"max_tokens": 5, "free_tokens": 5}, "free_tokens 5 should be below max_tokens 5"),
        ({"target": 0}, "target of length is 0: "),
        ({"max_tokens": "many"}, "max_tokens of length is 'many': "),
    ],
)
def test_lengths_that_make_no_sense_are_sentences(args, message):
    with pytest.raises(ConfigError) as refused:
        made("length", **args)
    assert message in refused.value.message


# unit_tests

ADD = "def add(a, b):\n    return a + b\n"
ASSERTS = [
    "assert add(1, 2) == 3",
    "assert add(0, 0) == 0",
    "assert add(-1, 1) == 0",
    "assert add('a', 'b') == 'ab'",
]
HALF = "def add(a, b):\n    return 0"
CODE = [
    (f"Sure:\n```python\n{ADD}```\nDone.", ASSERTS, 1),
    (ADD, ASSERTS, 1),
    (HALF, ASSERTS, 0.5),
    (f"```python\n{HALF}\n```\nBetter:\n```python\n{ADD}", ASSERTS, 1),
    (f"```python\n{ADD}```\nRun it:\n```sh\npython add.py\n```", ASSERTS, 1),
    ("Sure, here is the code.", ASSERTS, 0),
    ("", ASSERTS, 0),
    ("def add(a, b) return a + b", ASSERTS, 0),
    (ADD, "one = 1\nassert add(one, 2) == 3\nassert add(1, 1) == 3", 0.5),
    (ADD, "def check(f):\n    assert f(1, 2) == 3\n    assert f(1, 1) == 2\ncheck(add)", 1),
    (HALF, "def check(f):\n    assert f(1, 2) == 3\ncheck(add)", 0),
    (ADD, ["total = add(1, 2)\nassert total == 3\nassert total < 4"], 1),
    ("größe = 'é'", ["assert größe == 'é'"], 1),
    (ADD, None, None),
    (ADD, [], None),
    (ADD, "", None),
    (ADD, "# nothing", None),
    (ADD, ["assert add(1, 2 == 3"], None),
    (ADD, [3], None),
    (ADD, 3, None),
]  # fmt: skip


def test_unit_tests():
    completions, tests, rewards = zip(*CODE, strict=True)
    assert judge(load_reward("unit_tests"), list(completions), tests=list(tests)) == list(rewards)


def test_unit_tests_all_or_nothing_and_from_another_column():
    reward = made(
        "unit_tests", all_or_nothing=True, column="checks", time_s=2, memory_gib=0.25, num_parallel=1
    )
    assert judge(reward, [ADD, HALF], checks=[ASSERTS, ASSERTS]) == [1, 0]
    with pytest.raises(DataError, match="unit_tests finds no column 'tests'"):
        one(load_reward("unit_tests"), ADD, answer="x")


# The library as a whole.


def test_every_reward_has_a_name_that_trl_logs_and_a_line_of_description():
    assert library.names() == list(library.descriptions())
    for name in library.names():
        reward = made(name, **ARGS.get(name, {}))
        assert reward.__name__ == name
        assert 10 < len(library.descriptions()[name]) < 80


ARGS = {"json_schema": {"schema": SCHEMA}, "regex": {"pattern": r"\b1\d\b"}, "length": {"max_tokens": 512}}
SUMS = [{"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(10, 24)]
ROWS = {
    "exact_answer": SUMS,
    "numeric_answer": [
        {**row, "answer": f"{row['prompt'][8:]} That is\n#### {row['answer']}"} for row in SUMS
    ],
    "json_schema": [{"prompt": f"Person {n}", "answer": json.dumps({"name": f"N{n}"})} for n in range(12)],
    "regex": SUMS,
    "format": SUMS,
    "length": SUMS,
    "unit_tests": [{"prompt": "Add", "solution": ADD, "tests": ASSERTS[:n]} for n in (1, 2, 3)],
}


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
@pytest.mark.parametrize("name", ROWS)
def test_the_check_before_training_finds_nothing_wrong_with_a_library_reward(name, chat, monkeypatch):
    monkeypatch.setattr("tunesmith.data.checks.rewards.SLOW_S", 60)  # this machine may be busy
    rows = ROWS[name]
    if chat:
        rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    report, findings = check_reward(made(name, **ARGS.get(name, {})), name, rows)
    assert findings == []
    assert report.num_none == 0
    assert (report.minimum, report.num_rows) == (0, len(rows)) or name == "length"


def test_the_check_before_training_judges_by_the_column_that_a_reward_was_made_with():
    rows = [{"prompt": row["prompt"], "total": row["answer"]} for row in SUMS]
    report, findings = check_reward(made("numeric_answer", column="total"), "numeric_answer", rows)
    assert findings == []
    assert (report.reference_column, report.maximum) == ("total", 1)


def test_the_check_before_training_names_references_without_a_number():
    rows = [*SUMS, {"prompt": "And?", "answer": "twelve"}]
    _, findings = check_reward(load_reward("numeric_answer"), "numeric_answer", rows)
    assert [(each.code, each.row) for each in findings] == [("D106", 14)]


def test_validate_takes_names_of_the_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "sums.jsonl", SUMS)
    ran = tunesmith("validate", "sums.jsonl", "--method", "grpo", "--reward", "numeric_answer", "--json")
    assert ran.code == 0, ran.document
    [report] = ran.document["rewards"]
    assert (report["name"], report["maximum"], report["minimum"]) == ("numeric_answer", 1, 0)
    ran = tunesmith("validate", "sums.jsonl", "--method", "grpo", "--reward", "numeric", "--json")
    assert ran.code == 2
    assert "did you mean numeric_answer?" in ran.document["error"]["message"]


# Names and arguments.

REFUSED = [
    (
        "numeric_anwser",
        {},
        "there is no reward 'numeric_anwser' in the library; did you mean numeric_answer?",
    ),
    ("Regex", {}, "did you mean regex?"),
    ("zzz", {}, "there is no reward 'zzz' in the library"),
    ("regex", {}, "regex needs the argument pattern"),
    ("regex", {"patern": "a"}, "regex "),
    ("regex", {"pattern": "a", "full": True}, "regex has no argument 'full'"),
    ("regex", {"pattern": "("}, "'(' is no regular expression: "),
    ("regex", {"pattern": 5}, "pattern of regex is 5: "),
    ("numeric_answer", {"tolerence": 1}, "no argument 'tolerence'; did you mean tolerance?"),
    ("numeric_answer", {"tolerance": -1}, "tolerance of numeric_answer is -1: "),
    ("format", {"tags": []}, "tags of format is []: "),
    ("format", {"tags": ["<a>"]}, "tags.0 of format is '<a>': "),
    ("reasoning_gym", {"task": "x"}, "reasoning_gym has no argument 'task'"),
]


@pytest.mark.parametrize(("name", "args", "message"), REFUSED)
def test_a_name_or_an_argument_that_is_wrong_is_a_sentence(name, args, message):
    with pytest.raises(ConfigError) as refused:
        made(name, **args)
    error = refused.value
    assert message in error.message
    assert "\n" not in error.message
    assert error.where
    assert error.fix
    if name not in library.names():
        assert all(each in error.fix for each in library.names())


OWN = """
def score(completions, bonus=0.0, **kwargs):
    return [bonus] * len(completions)
def strict(completions, completion_ids, bonus=0.0):
    return [bonus] * len(completions)
async def later(completions, bonus, **kwargs):
    return [bonus] * len(completions)
class Judge:
    def __call__(self, completions, bonus=0.5, **kwargs):
        return [bonus] * len(completions)
judge = Judge()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_rewards.py").write_text(OWN)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("tunesmith_reward_"):
            del sys.modules[name]


def test_arguments_are_bound_to_a_users_own_function(own):
    reward = made("own_rewards.py:score", bonus=0.25)
    assert reward.__name__ == "score"
    assert judge(reward, ["a", "b"]) == [0.25, 0.25]
    assert made("own_rewards.py:score")(["a"]) == [0.0]
    assert made("own_rewards.py:judge", bonus=0.75)(["a"]) == [0.75]
    assert check_reward(made("own_rewards.py:later", bonus=1.0), "later", SUMS)[1][0].code == "D505"
    assert RewardSource(function="own_rewards.py:score").weight == 1


def test_arguments_that_a_users_own_function_does_not_take_are_sentences(own):
    with pytest.raises(ConfigError, match="strict has no argument 'bonnus'") as refused:
        made("own_rewards.py:strict", bonnus=1)
    assert refused.value.fix == "it takes bonus"
    with pytest.raises(ConfigError, match="args can't set completions"):
        made("own_rewards.py:score", completions=[])


# The page.

PAGE = (Path(__file__).parent.parent / "docs" / "rewards.md").read_text()


@pytest.mark.parametrize("name", library.names())
def test_the_page_names_every_argument_of_every_reward(name):
    with pytest.raises(ConfigError) as refused:
        made(name, no_such_argument=1)
    section = PAGE.split(f"### {name}\n")[1].split("\n#")[0]
    arguments = refused.value.fix.partition(" takes ")[2]
    for argument in arguments.split(", ") if arguments != "no arguments" else ():
        assert f"`{argument}`" in section


def test_the_rewards_of_the_page_can_be_made(own, tmp_path):
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "my_rewards.py").write_text(code)
    (tmp_path / "run.yaml").write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    flags = {"model": "m", "dataset": "d"}
    config = load_config(run_yaml=tmp_path / "run.yaml", flags=flags, environ={}).config
    rewards = [load(source) for source in config.rewards]
    assert [each.__name__ for each in rewards] == ["numeric_answer", "regex", "brevity"]
    assert one(rewards[1], "so \\boxed{5}") == 1
    assert one(rewards[2], "a" * 128) == 0.75


def test_the_functions_of_the_page_are_those_of_the_example_and_pass_their_check(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))  # the folder of a loaded file is added to it
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    path = Path(__file__).parent.parent / "examples" / "my_rewards.py"
    assert path.read_text().endswith(code)
    accuracy, brevity = (load_reward(f"{path}:{name}") for name in ("accuracy", "brevity"))
    for chat in (False, True):
        rows = [
            {**row, "prompt": [{"role": "user", "content": row["prompt"]}]} if chat else row for row in SUMS
        ]
        assert check_reward(accuracy, "accuracy", rows)[1] == []
        assert check_reward(brevity, "brevity", rows)[1] == []
    said = ["So it is 42.", "42 or so", "-42", "142", "\\boxed{42}", ""]
    assert accuracy(completions=said, answer=["42"] * 6) == [1, 0, 0, 0, 1, 0]
    assert accuracy(completions=[[{"role": "assistant", "content": None}]], answer=[42]) == [0]
    assert brevity(completions=["", "a"], completion_ids=[[], [1] * 600]) == [1, 0]


def test_the_page_says_how_long_a_reward_may_take():
    assert f"A call in training may take {TIME_LIMIT_S:g} s." in PAGE
    assert f"a call may take {reward_calls.TIME_LIMIT_S:g} s." in PAGE


# On data that a reward doesn't fit.


def test_data_without_answers_are_said_to_have_none_and_a_map_mends_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": row["prompt"], "result": row["answer"]} for row in SUMS])
    command = ("validate", "rows.jsonl", "--method", "grpo", "--reward", "numeric_answer")
    ran = tunesmith(*command)
    assert ran.code == 1
    said = "reward numeric_answer: finds no column with reference answers (columns of the data: result)"
    assert said in ran.out
    assert "name it: --map reference=COLUMN, or in RUN.yaml rewards: [{function: numeric_answer, " in ran.out
    ran = tunesmith(*command, "--map", "reference=result", "--json")
    assert (ran.code, ran.document["rewards"][0]["maximum"]) == (0, 1)


@pytest.mark.parametrize("reference", ["total", "meta.total"])
def test_a_mapped_column_goes_before_one_that_is_called_like_an_answer(reference, tmp_path):
    totals = [*(row["answer"] for row in SUMS), "twelve"]
    rows = [
        {"prompt": f"Row {n}?", "answer": "none", "total": total, "meta": {"total": total}}
        for n, total in enumerate(totals)
    ]
    source = DatasetSource(path=str(write_jsonl(tmp_path / "rows.jsonl", rows)))
    rewards = {"numeric_answer": load_reward("numeric_answer")}
    report = validate(Request(source, "grpo", given={"reference": reference}, rewards=rewards))
    assert [(each.code, each.row) for each in report.log.kept()] == [("D106", len(SUMS))]


def test_reasoning_gym_on_other_data_says_what_it_judges():
    report, [finding] = check_reward(load_reward("reasoning_gym"), "reasoning_gym", SUMS)
    assert report is None
    assert finding.message.startswith("judges only rows that reasoning-gym made, with columns task, entry")
    assert finding.message.endswith("(columns of the data: answer)")
    assert finding.fix.startswith("use dataset: reasoning_gym:TASK")
