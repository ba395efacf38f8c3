"""The scripts for DPO and GRPO, run as test_scripts.py runs those for SFT, and the rewards of the second.

test_scripts.py holds what is asked of every script's file: header, budget of lines, names, imports.
"""

from __future__ import annotations

import importlib.util
import json
import math
import runpy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_scripts import SCRIPTS, TrainerBuiltError, copy_with, recorded_runs, stop_when_built
from tiny import write_jsonl, write_tiny_model

DPO, GRPO = "train_dpo_example.py", "train_grpo_example.py"
BOTH = pytest.mark.parametrize("script", [DPO, GRPO])
RIGHT, WRONG = "#### 7<|im_end|>", "Nobody in Lima remembers.<|im_end|>"
METRICS = {
    DPO: ["rewards/accuracies", "rewards/margins", "logps/chosen", "eval_rewards/accuracies", "eval_loss"],
    GRPO: ["reward", "frac_reward_zero_std", "completions/clipped_ratio", "rewards/right_form/mean"],
}


def pair(n: int) -> dict[str, list[dict[str, str]]]:
    """Two answers to one question, of which the one that knows is preferred."""
    question = {"role": "user", "content": f"How old is bridge {n}?"}
    known, unknown = f"It is {n} years old.", "In Lima nobody remembers."
    return {
        "chosen": [question, {"role": "assistant", "content": known}],
        "rejected": [question, {"role": "assistant", "content": unknown}],
    }


def question(n: int) -> dict[str, str]:
    return {"question": f"What is {n} plus {7 - n}?", "answer": f"{n} + {7 - n} = <<{n}+{7 - n}=7>>7\n#### 7"}


@pytest.fixture(scope="module")
def grpo() -> ModuleType:
    """The script as it stands, imported: nothing is trained by that."""
    spec = importlib.util.spec_from_file_location("train_grpo_example", SCRIPTS / GRPO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def beginner(grpo: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model that knows the answer, and gives it about half the time: rewards need a start."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_tiny_model(tmp_path_factory.mktemp("beginner") / "tiny-chat")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompts = [grpo.as_prompt(question(n))["prompt"] for n in range(8)]
    asked = tokenizer.apply_chat_template(prompts, tokenize=False, add_generation_prompt=True)
    texts = [prompt + answer for prompt in asked for answer in (RIGHT, WRONG)]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    labels = batch["input_ids"].clone()
    for row, text in zip(labels, texts, strict=True):
        answer = text.rpartition("assistant\n")[2]
        row[: -len(tokenizer(answer)["input_ids"])] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def settings(
    tiny_model: Path, beginner: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Small constants for each script: a model and local data, and two steps."""
    pairs, questions = tmp_path_factory.mktemp("pairs"), tmp_path_factory.mktemp("questions")
    write_jsonl(pairs / "train.jsonl", [pair(n) for n in range(32)])
    write_jsonl(questions / "train.jsonl", [question(n) for n in range(8)])
    return {
        DPO: {"MODEL": str(tiny_model), "DATASET": str(pairs), "MAX_STEPS": 2, "EVAL_SHARE": 0.25},
        GRPO: {
            **{"MODEL": str(beginner), "DATASET": str(questions), "DATASET_CONFIG": None, "MAX_STEPS": 3},
            **{"ACCUMULATION": 2, "MAX_COMPLETION_LENGTH": 12},
        },
    }


@pytest.fixture
def run(tmp_path: Path, settings: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Run a copy of a script with small constants in an empty folder; return the folder of its output."""

    def run_script(script: str, **changed: Any) -> Path:
        monkeypatch.chdir(tmp_path)
        copy = copy_with(SCRIPTS / script, tmp_path / "copies" / script, settings[script] | changed)
        runpy.run_path(str(copy), run_name="__main__")
        return tmp_path / "output"

    return run_script


def history(output: Path) -> list[dict[str, Any]]:
    """What the trainer logged, from the newest checkpoint."""
    newest = max(output.glob("checkpoint-*"), key=lambda folder: int(folder.name.partition("-")[2]))
    return json.loads((newest / "trainer_state.json").read_text())["log_history"]


# Training


@BOTH
def test_script_leaves_an_adapter_that_loads_and_has_moved_the_model(script, run, settings):
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    output = run(script)
    assert not (output / "model.safetensors").exists()
    model = AutoPeftModelForCausalLM.from_pretrained(output).eval()
    assert model.peft_config["default"].base_model_name_or_path == settings[script]["MODEL"]
    ids = AutoTokenizer.from_pretrained(output)("The river of Oslo", return_tensors="pt")["input_ids"]
    after = model(ids).logits
    with model.disable_adapter():
        assert not torch.equal(model(ids).logits, after)
    assert torch.isfinite(after).all()


@BOTH
def test_script_makes_exactly_one_trackio_run_with_the_metrics_of_its_method(script, run, monkeypatch):
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    opened, init = [], trackio.init
    monkeypatch.setattr(
        trackio, "init", lambda *args, **kwargs: opened.append(kwargs) or init(*args, **kwargs)
    )
    earlier = recorded_runs()
    output = run(script)
    ((project, name),) = recorded_runs() - earlier
    assert len(opened) == 1
    assert project == script.removeprefix("train_").removesuffix(".py").replace("_", "-")
    recorded = {key for row in SQLiteStorage.get_logs(project, name) for key in row}
    logged = {key for row in history(output) for key in row}
    for metric in METRICS[script]:
        assert metric in logged
        shown = f"eval/{metric.removeprefix('eval_')}" if metric.startswith("eval_") else f"train/{metric}"
        assert shown in recorded


@BOTH
def test_what_will_be_trained_is_printed_first(script, run, settings, monkeypatch, capsys):
    stop_when_built(monkeypatch)
    with pytest.raises(TrainerBuiltError):
        run(script)
    block = capsys.readouterr().out
    assert block.startswith(f"Model     {settings[script]['MODEL']} with LoRA\n")
    steps = f"{settings[script]['MAX_STEPS']} steps"
    for told in (settings[script]["DATASET"], steps, "./output, not pushed", "Trackio"):
        assert told in block


@BOTH
def test_script_goes_on_from_its_newest_checkpoint(script, run):
    run(script, MAX_STEPS=1)
    output = run(script, MAX_STEPS=2, RESUME=True)
    assert [row["step"] for row in history(output) if "loss" in row][:1] == [1]
    assert (output / "checkpoint-2" / "optimizer.pt").exists()


def test_dpo_tells_held_out_pairs_apart_after_training_and_could_not_before(run, capsys):
    output = run(DPO, MAX_STEPS=8, LEARNING_RATE=5e-3, ACCUMULATION=2)
    before, after = [row for row in history(output) if "eval_loss" in row]
    # The model is its own reference at first: nothing has gained on anything.
    assert (before["step"], before["eval_rewards/margins"]) == (0, 0)
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert after["eval_rewards/accuracies"] == 1
    assert after["eval_loss"] < before["eval_loss"] - 0.05
    printed = capsys.readouterr().out
    assert "Before    on 8 held-out pairs: loss 0.693, accuracy 0.00, margin 0.000" in printed
    assert "After     on 8 held-out pairs: loss 0." in printed
    assert "accuracy 1.00" in printed


def test_dpo_reports_the_model_that_it_keeps(run, capsys):
    """The best evaluation is printed, for the best checkpoint is what load_best_model_at_end leaves."""
    output = run(DPO, MAX_STEPS=4, EVAL_STEPS=1, LEARNING_RATE=3e-3)
    best = min(row["eval_loss"] for row in history(output) if "eval_loss" in row and row["step"])
    assert f"After     on 8 held-out pairs: loss {best:.3f}" in capsys.readouterr().out


def test_grpo_makes_rewarded_answers_likelier(run):
    output = run(GRPO, MAX_STEPS=10, ACCUMULATION=4, LEARNING_RATE=2e-3)
    rows = [row for row in history(output) if "reward" in row]
    right = [row["rewards/right_number/mean"] for row in rows]
    assert 0.2 < right[0] < 0.8
    assert rows[0]["frac_reward_zero_std"] < 1
    assert sum(right[-3:]) / 3 > 0.8
    for row in rows:
        weighted = row["rewards/right_number/mean"] + 0.2 * row["rewards/right_form/mean"]
        assert row["reward"] == pytest.approx(weighted, abs=1e-4)


def test_grpo_refuses_an_answer_without_a_number_before_a_model_is_loaded(run, tmp_path):
    rows = [question(1), {"question": "Who built it?", "answer": "Nobody remembers."}]
    folder = tmp_path / "rows"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", rows)
    with pytest.raises(SystemExit, match="1 answers hold no number to reward, the first of them in row 1"):
        run(GRPO, DATASET=str(folder), MODEL="./missing")


def test_grpo_refuses_a_group_that_does_not_divide_the_answers_of_a_step(run):
    with pytest.raises(ValueError, match="must be divisible by num_generations"):
        run(GRPO, BATCH_SIZE=3, ACCUMULATION=1)


# The Hub and privacy


@BOTH
@pytest.mark.parametrize("repository", ["", "somebody/some-model"])
def test_pushes_are_private_and_only_to_a_named_repository(script, repository, run, monkeypatch):
    stop_when_built(monkeypatch)
    with pytest.raises(TrainerBuiltError) as stopped:
        run(script, OUTPUT_REPO=repository)
    args = stopped.value.built.args
    assert args.push_to_hub is bool(repository)
    assert args.hub_model_id == (repository or None)
    assert (args.hub_private_repo, args.hub_token, args.trackio_static_space_id) == (True, None, False)
    assert args.bf16 is False  # this machine has no GPU to compute it natively


@BOTH
def test_constants_as_they_stand_make_whole_groups_and_the_documented_settings(
    script, settings, tmp_path, monkeypatch
):
    stop_when_built(monkeypatch)
    monkeypatch.chdir(tmp_path)
    local = {k: v for k, v in settings[script].items() if k in ("MODEL", "DATASET", "DATASET_CONFIG")}
    copy = copy_with(SCRIPTS / script, tmp_path / "copies" / script, local)
    with pytest.raises(TrainerBuiltError) as stopped:
        runpy.run_path(str(copy), run_name="__main__")
    args = stopped.value.built.args
    if script == GRPO:
        assert (args.generation_batch_size, args.num_generations, args.max_completion_length) == (64, 8, 512)
        assert (args.beta, args.temperature, args.learning_rate) == (0, 1, 1e-5)
        assert args.reward_weights == [1.0, 0.2]
    else:
        assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 16
        assert (args.beta, args.loss_type, args.learning_rate) == (0.1, ["sigmoid"], 5e-6)


# The rewards


REFERENCE = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = 72 altogether.\n#### 72"
CASES = {  # completion: (right number, right form)
    "#### 72": (1, 1),
    "She sold 48 + 24 = 72.\n#### 72": (1, 1),
    "She sold 48 + 24 = 72.\n\n####72\n": (1, 1),
    "#### 72.0": (1, 1),
    "#### 71": (0, 1),
    "#### -72": (0, 1),
    "#### 720": (0, 1),
    "#### 7,2": (0, 0),
    "The answer is 72.": (1, 0),
    "The answer is $\\boxed{72}$.": (1, 0),
    "She sold 48 in April and 24 in May.": (0, 0),  # the right one is not among them
    "72 clips, of which 48 in April": (0, 0),  # the right one does not come last
    "It is 70, 71, 72 or 73.\n#### 73": (0, 1),
    "#### 70\n#### 71\n#### 72": (1, 1),  # the last one counts, as for a reader
    "#### 72\nI hope that helps!": (1, 0),
    "#### 72 clips": (1, 0),
    "So the answer is #### 72": (1, 0),
    "100-28=72": (1, 0),
    "seventy-two": (0, 0),
    "####": (0, 0),
    "": (0, 0),
}


@pytest.mark.parametrize("completion", CASES)
@pytest.mark.parametrize("form", ["text", "messages"])
def test_rewards_read_the_number_that_a_completion_ends_up_at(completion, form, grpo):
    given = [completion] if form == "text" else [[{"role": "assistant", "content": completion}]]
    columns = {"prompts": ["?"], "question": ["?"], "completion_ids": [[1]], "trainer_state": None}
    number, form = CASES[completion]
    assert grpo.right_number(given, answer=[REFERENCE], **columns) == [number]
    assert grpo.right_form(given, answer=[REFERENCE], **columns) == [form]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[("1,234", 1234), ("1,234,567.50", 1234567.5), ("$1,234.50.", 1234.5), ("72,73", 73), ("0.5", 0.5)],
        *[
            ("#### -5", -5),
            ("10-3", 3),
            ("it is 5 - 3", 3),
            ("18%", 18),
            ("3/4", 4),
            ("x²", None),
            (".", None),
        ],
    ],
)
def test_last_number_reads_thousands_decimals_and_signs(text, number, grpo):
    assert grpo.last_number(text) == number


def test_right_number_judges_each_completion_by_its_own_answer(grpo):
    completions = ["#### 1,000", "#### 1000", "#### 1000", "#### 2"]
    answers = ["#### 1000", "#### 1,000", "#### 2", "no number"]
    assert grpo.right_number(completions, answers) == [1, 1, 0, 0]


def test_an_answer_without_a_number_rewards_nobody(grpo):
    assert grpo.right_number(["", "no number either"], ["none", "none"]) == [0, 0]


def test_prompt_asks_for_the_form_that_is_rewarded(grpo):
    instruction, asked = grpo.as_prompt({"question": "How many?", "answer": "#### 3"})["prompt"]
    assert (instruction["role"], asked) == ("system", {"role": "user", "content": "How many?"})
    example = instruction["content"].rpartition(": ")[2]
    assert grpo.right_form([example]) == [1]


def test_tunesmith_finds_nothing_wrong_with_the_rewards():
    """The guide says that `rewards: [train_grpo_example.py:right_number]` goes on from the script."""
    from tunesmith.data.checks.rewards import check_reward
    from tunesmith.rewards.loading import load_reward

    rows = [
        {"prompt": [{"role": "user", "content": question(n)["question"]}], **question(n)} for n in range(8)
    ]
    for function in ("right_number", "right_form"):
        name = f"{SCRIPTS / GRPO}:{function}"
        report, findings = check_reward(load_reward(name), name, rows)
        assert [finding for finding in findings if finding.level != "info"] == []
        assert report.maximum == 1
        assert report.mean_by_completion["an unrelated sentence"] == 0
