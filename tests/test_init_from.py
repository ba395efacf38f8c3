"""Runs that start from an earlier run: what is merged, what is kept, and what is said when that can't be."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from method_data import options_for, write_method_data
from running import Ran, record_of, rows_of, same_weights, tunesmith, weights_of
from tiny import chat_rows, write_jsonl, write_tiny_model

IDS = [[5, 9, 200, 31, 7]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Data, and two finished runs of sft, runs/lora and runs/full, that moved far from the model."""
    folder = tmp_path_factory.mktemp("place")
    write_method_data(folder, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for tuning in ("lora", "full"):
            ran = tunesmith(
                "train", *options_for("sft", tiny_model), "--tuning", tuning, "--learning-rate", "0.05",
                "--warmup-steps", "0", "--run-dir", f"runs/{tuning}",
            )  # fmt: skip
            assert ran.code == 0, ran.err
    return folder


@pytest.fixture(autouse=True)
def _in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def train(method: str, earlier: str, run: str, *options: str) -> Ran:
    given = options_for(method, Path("none"))
    at = given.index("--model")
    del given[at : at + 2]
    return tunesmith("train", *given, "--init-from", earlier, "--run-dir", run, *options)


def logits_of(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor(IDS), use_cache=False).logits


def loaded(run: str, base: Path | str) -> Any:
    """The adapter of a run on a base, in plain peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), Path(run) / "model")


def base_of(run: str) -> str:
    """The base that an adapter names."""
    return json.loads((Path(run) / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]


def in_memory(method: str, earlier: str, run: str, **settings: Any) -> Any:
    """Train through the parts that `tunesmith train` puts together, for the model as it is in memory."""
    from tunesmith.config.loading import load_config
    from tunesmith.runs.folder import RunFolder
    from tunesmith.train.setup import set_up
    from tunesmith.train.training import train as train_setup

    flags = {"method": method, "init_from": earlier, "dataset": "pairs.jsonl", "max_steps": 2,
             "learning_rate": 0.02, "global_batch_size": 4, "logging_steps": 1,
             "precision": "fp32", **settings}  # fmt: skip
    setup = set_up(
        load_config(flags=flags, assignments=["trl.report_to=none"], environ={}).config, lambda event: None
    )
    return train_setup(setup, RunFolder.create(Path(run), setup.record()), lambda event: None).model


def test_an_adapter_on_an_earlier_adapter_stands_on_the_merged_base_that_the_run_keeps(tiny_model: Path):
    import torch
    from transformers import AutoModelForCausalLM

    trained = in_memory("dpo", "runs/lora", "runs/dpo")
    assert base_of("runs/dpo") == str(Path("runs/dpo/base").resolve())
    assert torch.equal(logits_of(loaded("runs/dpo", base_of("runs/dpo"))), logits_of(trained))
    merged = logits_of(AutoModelForCausalLM.from_pretrained("runs/dpo/base"))
    torch.testing.assert_close(merged, logits_of(loaded("runs/lora", tiny_model)), rtol=0, atol=1e-5)
    assert (merged - logits_of(AutoModelForCausalLM.from_pretrained(tiny_model))).abs().max() > 0.1
    assert all("lora_" in name for name in weights_of(Path("runs/dpo/model")))


@pytest.mark.parametrize("earlier", ["lora", "full"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_reference_of_dpo_is_the_earlier_run_s_model(tiny_model: Path, earlier: str, tuning: str):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = f"runs/dpo-{tuning}-on-{earlier}"
    ran = train("dpo", f"runs/{earlier}", run, "--tuning", tuning, "--global-batch-size", "8")
    assert ran.code == 0, ran.err
    # Before any weight moved the policy is its own reference.
    assert rows_of(Path(run))[1] == pytest.approx(math.log(2), abs=1e-5)
    assert rows_of(Path(run), "rewards/margins")[1] == pytest.approx(0, abs=1e-4)
    start = (
        loaded("runs/lora", tiny_model)
        if earlier == "lora"
        else AutoModelForCausalLM.from_pretrained("runs/full/model")
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    said = []
    for line in Path("pairs.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        prompt_ids = tokenizer(prompt)["input_ids"]
        ids = torch.tensor([prompt_ids + tokenizer(row["chosen"][0]["content"] + "<|im_end|>")["input_ids"]])
        with torch.inference_mode():
            logps = start.eval()(input_ids=ids, use_cache=False).logits.log_softmax(-1)
        answer = range(len(prompt_ids), ids.shape[1])
        said.append(sum(logps[0, i - 1, ids[0, i]].item() for i in answer))
    assert rows_of(Path(run), "logps/chosen")[1] == pytest.approx(sum(said) / len(said), rel=1e-4)


def test_an_adapter_on_a_fully_tuned_run_names_that_run_s_model_as_its_base():
    import torch

    trained = in_memory("dpo", "runs/full", "runs/on-full")
    assert not Path("runs/on-full/base").exists()
    assert torch.equal(logits_of(loaded("runs/on-full", "runs/full/model")), logits_of(trained))
    assert base_of("runs/on-full") == str(Path("runs/full/model").resolve())


def test_full_tuning_goes_on_from_a_merged_adapter():
    import torch
    from transformers import AutoModelForCausalLM

    trained = in_memory("orpo", "runs/lora", "runs/full-on-lora", tuning="full")
    saved = AutoModelForCausalLM.from_pretrained("runs/full-on-lora/model")
    assert torch.equal(logits_of(saved), logits_of(trained))


def test_a_chain_of_three_runs_carries_all_that_was_learned(tiny_model: Path):
    import torch

    ran = train("dpo", "runs/lora", "runs/second")
    assert ran.code == 0, ran.err
    ran = train("grpo", "second", "runs/third")  # a run's name under runs/ is enough
    assert ran.code == 0, ran.err
    from transformers import AutoModelForCausalLM

    second = logits_of(loaded("runs/second", "runs/second/base"))
    base = logits_of(AutoModelForCausalLM.from_pretrained("runs/third/base"))
    torch.testing.assert_close(base, second, rtol=0, atol=1e-5)
    assert base_of("runs/third") == str(Path("runs/third/base").resolve())
    assert not same_weights(Path("runs/third/model"), Path("runs/second/model"))
    record = record_of(Path("runs/third"))
    assert record["config"]["init_from"] == "second"
    assert record["provenance"]["init_from"] == "flag --init-from"


def test_a_reward_model_starts_from_what_sft_made(tiny_model: Path):
    ran = train("reward", "runs/lora", "runs/reward")
    assert ran.code == 0, ran.err
    assert base_of("runs/reward") == str(Path("runs/reward/base").resolve())
    assert any("score" in name for name in weights_of(Path("runs/reward/model")))


def test_a_reward_model_is_no_model_that_can_answer(tiny_model: Path):
    """It gives a number, and has no words to go on with."""
    ran = tunesmith("train", *options_for("reward", tiny_model), "--run-dir", "runs/numbers")
    assert ran.code == 0, ran.err
    ran = train("dpo", "runs/numbers", "runs/on-numbers")
    assert ran.code == 2, ran.err
    assert "Traceback" not in ran.err
    assert not Path("runs/on-numbers").exists()


def test_chat_template_and_tokenizer_of_the_earlier_run_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from transformers import AutoTokenizer

    monkeypatch.chdir(tmp_path)
    write_method_data(tmp_path, 8)
    bare = write_tiny_model(tmp_path / "bare", chat_template=False)
    ran = tunesmith("train", *options_for("sft", bare), "--chat-template", "chatml", "--run-dir", "runs/sft")
    assert ran.code == 0, ran.err
    ran = train("dpo", "runs/sft", "runs/dpo")
    assert ran.code == 0, ran.err
    assert "has no chat template" not in ran.err
    template = AutoTokenizer.from_pretrained("runs/sft/model").chat_template
    assert template
    for folder in ("runs/dpo/model", "runs/dpo/base"):
        assert AutoTokenizer.from_pretrained(folder).chat_template == template


def write_run(path: str, status: str) -> None:
    from tunesmith.runs.folder import RunFolder

    RunFolder.create(Path(path), {"method": "sft", "config": {"tuning": "lora"}}).update(status=status)


@pytest.mark.parametrize(
    ("earlier", "said", "fix"),
    [
        ("runs/nowhere", "there is no run at runs/nowhere", "tunesmith runs lists them"),
        ("runs/half", "runs/half is stopped", "tunesmith resume runs/half"),
        ("runs/broken", "runs/broken is failed", "tunesmith resume runs/broken"),
        ("chats.jsonl", "there is no run at chats.jsonl", "tunesmith runs lists them"),
    ],
)
def test_an_earlier_run_that_can_t_be_started_from_is_refused(place: Path, earlier: str, said: str, fix: str):
    for path, status in (("runs/half", "stopped"), ("runs/broken", "failed")):
        if not Path(path).exists():
            write_run(path, status)
    ran = train("dpo", earlier, "runs/refused")
    assert ran.code == 2, ran.err
    assert said in ran.err
    assert fix in ran.err
    assert "Traceback" not in ran.err
    assert not Path("runs/refused").exists()


def test_an_earlier_run_whose_model_is_gone_is_refused():
    shutil.copytree("runs/lora", "runs/gone")
    shutil.rmtree("runs/gone/model")
    ran = train("dpo", "runs/gone", "runs/refused")
    assert ran.code == 2, ran.err
    assert "Traceback" not in ran.err
    assert "runs/gone" in ran.err
    assert not Path("runs/refused").exists()


def test_model_and_init_from_together_are_refused(tiny_model: Path):
    ran = train("dpo", "runs/lora", "runs/refused", "--model", str(tiny_model))
    assert ran.code == 2
    assert "model and init_from each name what to start from; keep one" in ran.err
    ran = tunesmith("train", "dpo", "--dataset", "pairs.jsonl")
    assert ran.code == 2
    assert "model" in ran.err


@pytest.mark.parametrize("earlier", ["lora", "full"])
def test_a_stopped_run_goes_on_after_the_earlier_one_was_deleted(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, earlier: str
):
    shutil.copytree(Path("runs") / earlier, tmp_path / "runs" / "sft")
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "chats.jsonl", chat_rows(8))
    write_method_data(tmp_path, 8)
    # A reward stops the run after two steps.
    mended = "def score(completions, **kwargs):\n    return [float(i) for i in range(len(completions))]\n"
    failing = mended.replace(
        "**kwargs):\n", "trainer_state, **kwargs):\n    1 / (2 - trainer_state.global_step)\n"
    )
    Path("first.py").write_text(failing)
    ran = train("grpo", "runs/sft", "runs/next", "--rewards", "first.py:score", "--max-steps", "4")
    assert ran.code == 4, ran.err
    shutil.rmtree("runs/sft")
    Path("first.py").write_text(mended)
    monkeypatch.delitem(sys.modules, "tunesmith_reward_first")
    resumed = tunesmith("resume", "runs/next", "--json")
    if earlier == "lora":
        assert resumed.code == 0, resumed.err
        assert (resumed.document["resumed_from"], resumed.document["step"]) == (2, 4)
    else:
        assert resumed.code == 2
        assert "there is no run at runs/sft" in resumed.document["error"]["message"]
        assert record_of(Path("runs/next"))["status"] == "stopped"
