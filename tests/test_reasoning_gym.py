"""reasoning-gym's tasks as data and as a reward: named by a string, the same everywhere, safe to judge."""

import json
import subprocess
import sys
from functools import cache

import pytest
from running import tunesmith

pytest.importorskip("reasoning_gym", reason="pip install 'tunesmith[reasoning-gym]'")

from reasoning_gym.factory import DATASETS

from tunesmith.config.loading import load_config
from tunesmith.config.run_config import DatasetSource
from tunesmith.data.checks.rewards import check_reward
from tunesmith.data.convert import convert
from tunesmith.data.formats import detect
from tunesmith.data.row_source import open_rows
from tunesmith.errors import DataError, MissingPackageError
from tunesmith.rewards import reasoning_gym
from tunesmith.rewards.reasoning_gym import reasoning_gym_score, rows_of

UNRELATED = "I would rather talk about the weather: it has been raining here since Tuesday."
# `composite` mixes other tasks and has nothing to make without them.
TASKS = sorted(DATASETS.keys() - {"composite"})
# Their entries have no answer and no example of one.
WITHOUT_ANSWER = {"boxnet", "rush_hour"}
# A fault of its scorer in 0.1.25: bool("False") is true, so that any answer but silence is right.
TAKES_ANYTHING = {"game_of_life_halting"}
HOSTILE = [
    "exit()",
    "__import__('os')._exit(0)",
    "__import__('os').system('touch stolen')",
    "__import__('pathlib').Path('stolen').touch()",
    "open('stolen', 'w')",
    "input()",
    "print(__import__('sys'))",
]


@cache
def rows(path, **options):
    return [row for _, row in open_rows(DatasetSource(path=f"reasoning_gym:{path}", **options)).rows()]


def score(completions, made):
    columns = {name: [row[name] for row in made] for name in ("task", "entry", "settings")}
    return reasoning_gym_score(completions, **columns, prompts=[row["question"] for row in made])


def refused(path, **options):
    with pytest.raises(DataError) as caught:
        rows(path, **options)
    assert caught.value.where.startswith("reasoning_gym:")
    assert caught.value.fix
    return f"{caught.value.message} | {caught.value.fix}"


# Rows.


def test_rows_have_question_answer_and_what_names_the_entry():
    made = rows("chain_sum,size=40,seed=7,max_terms=3")
    assert len(made) == 40
    assert list(made[5]) == ["question", "answer", "task", "entry", "settings"]
    assert (made[5]["task"], made[5]["entry"]) == ("chain_sum", 5)
    assert json.loads(made[5]["settings"]).items() >= {"size": 40, "seed": 7, "max_terms": 3}.items()


def test_size_and_seed_have_defaults():
    assert len(rows("chain_sum")) == 1000
    assert rows("chain_sum", max_rows=3) == rows("chain_sum,seed=42,size=1000", max_rows=3)


def test_settings_reach_the_task():
    made = rows("basic_arithmetic,size=20,operators=+;-,allow_parentheses=false")
    assert not any(sign in row["question"] for row in made for sign in "*/(")
    assert rows("word_sorting,size=2,transformation=uppercase")[0]["answer"].isupper()


def test_split_slices_and_max_rows_leave_what_they_say():
    whole = rows("chain_sum,size=30")
    assert rows("chain_sum,size=30", split="train[20:]") == whole[20:]
    assert rows("chain_sum,size=30", split="train[:2]+train[-2:]", max_rows=3) == [*whole[:2], whole[-2]]
    assert rows("chain_sum,size=30", max_rows=4) == whole[:4]


def test_a_slice_of_a_slow_task_makes_only_its_rows():
    assert len(rows("futoshiki,size=100000", split="train[:2]")) == 2


def test_another_process_makes_the_same_rows(tmp_path):
    # These depend on the order of hashes, or draw from global generators.
    tasks = ["word_ladder", "codeio", "polynomial_multiplication", "pool_matrix"]
    here = [rows_of(task, {"size": 3, "seed": 1}, [2, 0, 1], "") for task in tasks]
    code = (
        "import json; from tunesmith.rewards.reasoning_gym import rows_of; "
        f"print(json.dumps([rows_of(task, {{'size': 3, 'seed': 1}}, [0, 1, 2], '') for task in {tasks}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    there = json.loads(done.stdout)
    assert [sorted(made, key=lambda row: row["entry"]) for made in here] == there


def test_a_seed_nearby_makes_the_same_entries_and_one_far_off_does_not():
    questions = {row["question"] for row in rows("spell_backward,size=50,seed=42")}
    assert len(questions & {row["question"] for row in rows("spell_backward,size=50,seed=43")}) >= 49
    assert len(questions & {row["question"] for row in rows("spell_backward,size=50,seed=1000042")}) <= 2


@pytest.mark.parametrize(
    ("method", "expected"), [("grpo", "prompt"), ("rloo", "prompt"), ("sft", "messages")]
)
def test_methods_read_the_rows(method, expected):
    made = rows("chain_sum,size=5")
    row = convert(made[0], detect(method, list(made[0]), made))
    asked = [{"role": "user", "content": made[0]["question"]}]
    if expected == "prompt":
        assert row == {
            "prompt": asked,
            **{name: made[0][name] for name in ("answer", "task", "entry", "settings")},
        }
    else:
        assert row == {"messages": [*asked, {"role": "assistant", "content": made[0]["answer"]}]}


def test_a_task_without_answers_fits_grpo_and_not_sft():
    made = rows("rush_hour,size=5")
    assert "answer" not in made[0]
    assert detect("grpo", list(made[0]), made) is not None
    assert detect("sft", list(made[0]), made) is None


# What can't be made is a sentence.


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("chain_sun", "no task 'chain_sun' among its 106 | did you mean chain_sum?"),
        ("", "names no task"),
        ("size=4", "names no task"),
        ("chain_sum,max_term=3", "no setting 'max_term'; it has allow_negation, max_digits, max_terms"),
        ("chain_sum,max_term=3", "did you mean max_terms?"),
        ("chain_sum,max_terms=many", "max_terms=many should be a whole number"),
        ("chain_sum,allow_negation=2", "should be true or false"),
        ("chain_sum,max_terms=0", "chain_sum refuses max_terms=0: max_terms must be >= min_terms"),
        ("word_sorting,transformation=loud", "should be one of lowercase, uppercase"),
        ("time_intervals,min_date=soon", "should be written as 1900-01-01"),
        ("chain_sum,size=0", "size=0 should be a whole number from 1 on"),
        ("chain_sum,seed=-1", "seed=-1 should be a whole number from 0 on"),
        ("chain_sum,seed", "no key=value"),
        ("chain_sum,seed=1,seed=2", "gives seed twice"),
        ("composite", "composite refuses its default settings"),
    ],
)
def test_what_a_source_gets_wrong_is_said(path, said):
    assert said in refused(path)


def test_a_split_or_configuration_that_makes_no_sense_is_said():
    assert "no split 'test'" in refused("chain_sum", split="test")
    assert "has no rows in train[5000:]" in refused("chain_sum", split="train[5000:]")
    assert "no split" in refused("chain_sum", split="train[:x]")
    assert "settings after the task" in refused("chain_sum", config="main")


def test_a_missing_package_is_said(monkeypatch):
    made = rows("chain_sum,size=4")
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingPackageError) as caught:
        open_rows(DatasetSource(path="reasoning_gym:gcd"))
    assert caught.value.fix == "pip install 'tunesmith[reasoning-gym]'"
    assert caught.value.where == "reasoning_gym:gcd"
    with pytest.raises(MissingPackageError) as caught:
        score(["4"], made[:1])
    assert caught.value.where == "entry 0 of chain_sum"


# The reward.


@pytest.mark.parametrize("task", TASKS)
def test_a_right_answer_scores_1_and_an_unrelated_sentence_less(task):
    made = rows_of(task, {"size": 3, "seed": 42}, range(3), task)
    assert all(row["question"] for row in made)
    assert [row["answer"] == "" for row in made] == [task in WITHOUT_ANSWER] * 3
    right = score([f"<think>\nHm.\n</think>\n<answer>\n{row['answer']}\n</answer>" for row in made], made)
    assert right == [0.0 if task in WITHOUT_ANSWER else 1.0] * 3
    unrelated = score([UNRELATED] * 3, made)
    assert unrelated == [1.0] * 3 if task in TAKES_ANYTHING else max(unrelated) <= 0.1
    assert max(score([""] * 3, made)) <= 0.05


def test_the_answer_is_in_the_last_tags_or_is_the_whole_completion():
    made = rows("gcd,size=1")
    answer = made[0]["answer"]
    said = [
        answer,
        f"  {answer}\n",
        [{"role": "assistant", "content": answer}],
        f"<answer>0</answer> no: <answer> {answer} </answer>.",
        [],
        [{"role": "assistant", "content": None}],
    ]
    assert [score([each], made)[0] for each in said] == [1, 1, 1, 1, 0, 0]


def test_a_row_of_another_dataset_gets_no_score():
    assert reasoning_gym_score(["4"], task=[None], entry=[None], settings=[None]) == [None]


@pytest.mark.parametrize("task", ["chain_sum", "countdown", "n_queens", "graph_color", "rush_hour"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_reward_passes_its_own_check(task):
    made = rows(f"{task},size=20")
    prompts = [convert(row, detect("grpo", list(row), made)) for row in made]
    report, findings = check_reward(reasoning_gym_score, "reasoning_gym", prompts)
    assert findings == []
    assert report.num_none == 0


def test_its_name_is_that_of_the_package():
    assert reasoning_gym_score.__name__ == "reasoning_gym"


# Scorers evaluate what the model says.


def test_hostile_answers_score_nothing_and_do_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    reasoning_gym._stop()  # so that the worker starts in this folder
    for made in (rows("countdown,size=1"), rows("n_queens,size=1")):
        right, *scores, still_right = score(
            [made[0]["answer"], *HOSTILE, made[0]["answer"]], made * (len(HOSTILE) + 2)
        )
        assert right == still_right == 1.0
        assert max(scores) <= 0.05
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


def test_an_answer_that_takes_forever_scores_nothing(monkeypatch):
    monkeypatch.setattr(reasoning_gym, "SCORE_LIMIT_S", 0.5)
    made = rows("countdown,size=1")
    assert score(["9**9**9", made[0]["answer"]], made * 2) == [0.0, 1.0]


def test_a_scorer_that_fails_on_the_right_answer_is_an_error(monkeypatch):
    made = rows("gcd,size=1")
    failed = {"built": True, "raised": "ImportError: no solver"}
    monkeypatch.setattr(reasoning_gym, "_ask", lambda *asked: failed)
    with pytest.raises(DataError, match=r"fails on the right answer too: ImportError: no solver"):
        score(["7"], made)


def test_rows_of_another_version_are_refused():
    made = [
        {**row, "settings": row["settings"].replace(reasoning_gym.version(), "0.0.1")}
        for row in rows("gcd,size=1")
    ]
    with pytest.raises(DataError, match=r"made with reasoning-gym 0\.0\.1"):
        score(["7"], made)
    with pytest.raises(DataError, match="no row of reasoning_gym has"):
        score(["7"], [{**made[0], "settings": "{}"}])


# The command line and configuration.


def test_validate_finds_a_task_fit_for_grpo_and_sft():
    for method in ("grpo", "sft"):
        ran = tunesmith("validate", "reasoning_gym:chain_sum", "--method", method, "--json")
        assert (ran.code, ran.document["fit"], ran.document["num_rows"]) == (0, True, 1000)
        assert ran.document["format"] == "question-answer"


def test_questions_of_one_template_are_no_near_duplicates_and_copies_are_found():
    ran = tunesmith("validate", "reasoning_gym:chain_sum", "--method", "grpo", "--json")
    assert ran.document["counts"] == {}
    few = "reasoning_gym:chain_sum,size=300,max_terms=2,max_digits=1"
    assert set(tunesmith("validate", few, "--method", "sft", "--json").document["counts"]) == {"D301"}


def test_validate_finds_evaluation_rows_of_a_seed_nearby():
    asked = (
        "validate",
        "reasoning_gym:spell_backward,size=50",
        "--method",
        "grpo",
        "--json",
        "--eval-dataset",
    )
    near = tunesmith(*asked, "reasoning_gym:spell_backward,size=50,seed=43").document
    assert sum(near["counts"].get(code, 0) for code in ("D303", "D304")) >= 49
    far = tunesmith(*asked, "reasoning_gym:spell_backward,size=50,seed=1000042").document
    assert not {"D303", "D304"} & far["counts"].keys()


def test_validate_says_what_is_wrong_with_a_source():
    ran = tunesmith("validate", "reasoning_gym:chain_sun", "--json")
    assert (ran.code, ran.document["error"]["code"]) == (2, "data")


def test_preview_shows_a_task(tiny_model):
    ran = tunesmith(
        "preview", "reasoning_gym:chain_sum,size=9,max_terms=2", "--method", "sft", "--model", tiny_model
    )
    assert ran.code == 0
    assert "arithmetic problem" in ran.out


def test_a_run_takes_tasks_alone_and_in_a_mixture(tmp_path):
    name = "reasoning_gym:chain_sum,size=50,max_terms=3"
    flags = {"method": "grpo", "model": "m", "dataset": name, "rewards": "reasoning_gym"}
    (source,) = load_config(flags=flags, environ={}).config.sources()
    assert source.path == name
    path = tmp_path / "run.yaml"
    path.write_text(
        f"method: grpo\nmodel: m\ndataset:\n  - path: {name}\n    weight: 1\n"
        "  - path: reasoning_gym:gcd\n    weight: 2\nrewards: [reasoning_gym]\n"
    )
    mixed = load_config(run_yaml=path, environ={}).config.sources()
    assert [each.path for each in mixed] == [name, "reasoning_gym:gcd"]
