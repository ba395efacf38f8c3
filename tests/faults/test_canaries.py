"""F06: secrets that a run is given, or that lie on its machine, are in nothing that it writes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from harness import cases, write_data
from running import tunesmith
from test_outbound import CANARIES

RUN = Path("runs/one")
# Names that a machine has secrets under, whether Tunesmith knows their owners or not.
VARIABLES = (
    "HF_TOKEN",
    "WANDB_API_KEY",
    "OPENAI_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "GITHUB_TOKEN",
    "MY_PASSWORD",
)
SETTINGS = (
    "run_name",
    "project",
    "trackio_space_id",
    "system_prompt",
    "trl.hub_token",
    "trl.run_name",
    "dataset",
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    return tmp_path


def written_with(place: Path, secrets: list[str]) -> list[Path]:
    """The files below `place` in which one of the secrets stands, in clear or escaped for JSON."""
    looked_for = [form.encode() for each in secrets for form in (each, json.dumps(each)[1:-1])]
    files = [path for path in place.rglob("*") if path.is_file() and path.name != "given.yaml"]
    return [path for path in files if any(each in path.read_bytes() for each in looked_for)]


@pytest.mark.parametrize("setting", ["run_name", "trl.hub_token", "rewards"])
def test_F06_a_secret_among_the_settings_is_refused_by_the_name_of_the_setting(setting, place, tiny_model):
    secret = CANARIES["openai"]
    method, data = ("grpo", "prompts.jsonl") if setting == "rewards" else ("sft", "chats.jsonl")
    value = f"[{{function: rewards.py:short, key: {secret}}}]" if setting == "rewards" else secret
    ran = tunesmith(
        "train", method, "--model", tiny_model, "--dataset", data, "--run-dir", RUN, "--max-steps", "2",
        "--set", f"{setting}={value}",
    )  # fmt: skip
    assert ran.code == 2, ran.err
    assert setting.removeprefix("trl.") in ran.err
    assert secret not in ran.err + ran.out
    assert not RUN.exists()


@pytest.mark.sweep
def test_F06_a_hundred_runs_write_none_of_twenty_canaries(place, tiny_model, monkeypatch):
    chosen = random.Random(20261127)
    small = [case for name, case in cases(tiny_model, 2).items() if name != "grpo-full"]
    codes = []
    for number in range(100):
        names = chosen.sample(list(CANARIES), 20)
        secrets = [CANARIES[name] for name in names]
        for variable, secret in zip(VARIABLES, secrets, strict=False):
            monkeypatch.setenv(variable, secret.rpartition("= ")[2])
        monkeypatch.setenv("HF_TOKEN_PATH", str(place / "nowhere"))
        given = [
            f"{key}: {json.dumps(secrets[at])}" for at, key in enumerate(SETTINGS, 6) if chosen.random() < 0.1
        ]
        Path("given.yaml").write_text("\n".join(given))
        method, *arguments = ["trl.report_to=trackio" if each == "trl.report_to=none" else each
                              for each in chosen.choice(small).arguments]  # fmt: skip
        ran = tunesmith("train", method, "given.yaml", *arguments, "--run-dir", f"runs/{number}")
        codes.append(ran.code)
        assert ran.code in (0, 2), ran.err
        assert not [secret for secret in secrets if secret in ran.err + ran.out], ran.err
        assert written_with(place, secrets) == []
    assert codes.count(0) >= 30
    assert codes.count(2) >= 30
