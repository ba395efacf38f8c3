"""Training for real on a model of some thousand weights: what moves, what is saved, what is written down."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from running import Ran, record_of, rows_of, same_weights, tunesmith, weights_of
from tiny import chat_rows, write_jsonl

NUM_ROWS = 22


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """A folder with data in every row format; all runs of this module lie in it."""
    folder = tmp_path_factory.mktemp("place")
    chats = chat_rows(NUM_ROWS)
    write_jsonl(folder / "chats.jsonl", chats)
    last = [row["messages"][-2:] for row in chats]
    write_jsonl(
        folder / "pairs.jsonl", [{"prompt": q["content"], "completion": " " + a["content"]} for q, a in last]
    )
    write_jsonl(folder / "texts.jsonl", [{"text": answer["content"]} for _, answer in last])
    return folder


@pytest.fixture(autouse=True)
def _in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def train(place: Path, tiny_model: Path):
    """`train(name, *options)` trains into runs/NAME, once for the same name, and gives what it said."""
    done: dict[str, Ran] = {}

    def run(name: str, *options: str, data: str = "chats.jsonl") -> Ran:
        if name not in done:
            done[name] = tunesmith(
                "train", "sft", "--model", tiny_model, "--dataset", data, "--run-dir", f"runs/{name}",
                "--global-batch-size", "4", "--logging-steps", "1", "--set", "trl.report_to=none", *options,
            )  # fmt: skip
        return done[name]

    return run


LORA = ("--max-steps", "4", "--learning-rate", "0.02")
FULL = ("--tuning", "full", "--max-steps", "4", "--learning-rate", "0.01", "--json")


def test_lora_trains_every_adapter_weight_and_saves_only_the_adapter(train):
    ran = train("lora", *LORA)
    assert ran.code == 0, ran.err
    assert ran.out == "runs/lora\n"
    weights = weights_of(Path("runs/lora/model"))
    assert weights
    assert all("lora_" in name for name in weights)
    # B begins at zero: each one that isn't was trained.
    assert all(weight.abs().sum() > 0 for name, weight in weights.items() if "lora_B" in name)


def test_the_saved_adapter_loads_in_plain_peft_and_changes_the_answers(train, tiny_model: Path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    train("lora", *LORA)
    checkpoint = Path("runs/lora/checkpoints/checkpoint-4")
    assert same_weights(checkpoint, Path("runs/lora/model"))
    tokenizer = AutoTokenizer.from_pretrained("runs/lora/model")
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = tokenizer("The river of Oslo", return_tensors="pt")
    with torch.inference_mode():
        before = base(**ids).logits.clone()
        after = PeftModel.from_pretrained(base, "runs/lora/model")(**ids).logits
    assert (after - before).abs().max() > 1e-3


def test_the_model_in_memory_and_the_saved_one_give_the_same_logits(place: Path, tiny_model: Path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tunesmith.config.loading import load_config
    from tunesmith.runs.folder import RunFolder
    from tunesmith.train.setup import set_up
    from tunesmith.train.training import train as train_setup

    for tuning in ("lora", "full"):
        flags = {"method": "sft", "model": str(tiny_model), "dataset": "chats.jsonl", "tuning": tuning,
                 "max_steps": 2, "learning_rate": 0.02, "precision": "fp32"}  # fmt: skip
        loaded = load_config(flags=flags, assignments=["trl.report_to=none"], environ={})
        setup = set_up(loaded.config, lambda event: None)
        run = RunFolder.create(Path("runs") / f"memory-{tuning}", setup.record())
        trained = train_setup(setup, run, lambda event: None).model.eval()
        if tuning == "lora":
            saved = PeftModel.from_pretrained(
                AutoModelForCausalLM.from_pretrained(tiny_model), run.model_path
            )
        else:
            saved = AutoModelForCausalLM.from_pretrained(run.model_path)
        assert trained.config.use_cache
        assert saved.config.use_cache
        ids = torch.tensor([[5, 9, 200, 31, 7]])
        with torch.inference_mode():
            expected = trained(input_ids=ids, use_cache=False).logits
            assert torch.equal(saved.eval()(input_ids=ids, use_cache=False).logits, expected), tuning


def test_full_tuning_moves_every_weight_and_says_so_as_json(train, tiny_model: Path):
    import torch

    ran = train("full", *FULL)
    assert ran.code == 0, ran.err
    before, after = weights_of(tiny_model), weights_of(Path("runs/full/model"))
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)
    document = ran.document
    assert document["status"] == "done"
    assert (document["run"], document["step"], document["num_steps"]) == ("runs/full", 4, 4)
    assert document["resumed_from"] is None
    assert document["metrics"]["train_loss"] > 0
    events = [json.loads(line) for line in ran.err.splitlines()]
    assert [e["step"] for e in events if e["event"] == "progress"] == [1, 2, 3, 4]
    assert all(e["loss"] is not None for e in events if e["event"] == "progress")


def test_the_same_seed_gives_the_same_losses_and_weights_and_another_seed_others(train):
    train("lora", *LORA)
    train("twin", *LORA)
    train("other", *LORA, "--seed", "7")
    losses = rows_of(Path("runs/lora"))
    assert list(losses) == [1, 2, 3, 4]
    assert rows_of(Path("runs/twin")) == losses
    assert same_weights(Path("runs/twin/model"), Path("runs/lora/model"))
    assert rows_of(Path("runs/other")) != losses


def test_run_json_holds_what_was_asked_where_from_and_what_came_out(train, tiny_model: Path):
    train("lora", *LORA)
    record = record_of(Path("runs/lora"))
    assert record["schema"] == "tunesmith-run/1"
    assert record["status"] == "done"
    assert record["step"] == record["num_steps"] == 4
    assert record["config"]["model"] == str(tiny_model)
    assert record["config"]["learning_rate"] == 0.02
    assert record["provenance"]["learning_rate"] == "flag --learning-rate"
    assert record["provenance"]["warmup_steps"].startswith("default (")
    assert record["provenance"]["trl.report_to"] == "flag --set trl.report_to"
    assert record["data"]["num_rows"] == NUM_ROWS
    assert len(record["data"]["fingerprint"]) == 64
    assert {"torch", "trl", "transformers", "peft"} <= {k for k, v in record["versions"].items() if v}
    assert record["metrics"]["train_loss"] > 0
    assert record["choice"]["precision"] in ("fp32", "bf16")


def test_the_fingerprint_follows_the_data(train):
    train("lora", *LORA)
    train("pairs", "--max-steps", "2", data="pairs.jsonl")
    train("twin", *LORA)
    prints = {
        name: record_of(Path("runs") / name)["data"]["fingerprint"] for name in ("lora", "twin", "pairs")
    }
    assert prints["lora"] == prints["twin"] != prints["pairs"]


def test_metrics_hold_one_row_a_log_with_speed(train):
    train("lora", *LORA)
    lines = Path("runs/lora/metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 4]
    assert all(row["tokens_per_s"] > 0 for row in rows[:4])
    assert all(math.isfinite(row["loss"]) for row in rows[:4])
    assert "train_loss" in rows[4]


@pytest.mark.parametrize("data", ["pairs.jsonl", "texts.jsonl"])
def test_pairs_and_texts_train_too(train, data: str):
    ran = train(data.removesuffix(".jsonl"), "--max-steps", "2", data=data)
    assert ran.code == 0, ran.err
    kind = {"pairs.jsonl": "prompt-completion", "texts.jsonl": "text"}[data]
    assert record_of(Path("runs") / data.removesuffix(".jsonl"))["data"]["formats"] == {data: kind}
    assert kind in ran.err


def steps_said(ran: Ran) -> int:
    return int(next(line for line in ran.err.splitlines() if line.startswith(" steps")).split()[1])


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("epochs", ("--num-train-epochs", "2"), 12),
        ("part", ("--num-train-epochs", "0.5"), 3),
        ("fraction", ("--num-train-epochs", "1.2"), 8),
        ("pinned", ("--num-train-epochs", "1", "--set", "trl.per_device_train_batch_size=1"), 6),
        ("few", ("--num-train-epochs", "1", "--max-rows", "3"), 1),
        ("max", ("--num-train-epochs", "9", "--max-steps", "5"), 5),
    ],
)
def test_the_steps_shown_before_are_the_steps_trained(
    train, name: str, options: tuple[str, ...], expected: int
):
    ran = train(name, *options)
    assert ran.code == 0, ran.err
    record = record_of(Path("runs") / name)
    assert steps_said(ran) == record["num_steps"] == record["step"] == expected
    assert max(rows_of(Path("runs") / name)) == expected


def test_a_pinned_micro_batch_keeps_the_global_batch(train):
    train("pinned", "--num-train-epochs", "1", "--set", "trl.per_device_train_batch_size=1")
    train("epochs", "--num-train-epochs", "2")
    choice = record_of(Path("runs/pinned"))["choice"]
    assert (choice["per_device_train_batch_size"], choice["gradient_accumulation_steps"]) == (1, 4)
    # The same four rows, before any weight moved: the same loss, whatever the micro-batch.
    assert rows_of(Path("runs/pinned"))[1] == pytest.approx(rows_of(Path("runs/epochs"))[1], rel=1e-5)


def test_best_checkpoint_and_early_stopping(train):
    # A rate at which the model falls apart: the first evaluation is the best, and the next ones stop the run.
    ran = train(
        "early", "--tuning", "full", "--learning-rate", "1", "--warmup-steps", "0", "--max-steps", "20",
        "--lr-scheduler-type", "constant", "--test-size", "4", "--eval-steps", "2",
        "--early-stopping-patience", "2",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    losses = rows_of(Path("runs/early"), "eval_loss")
    best = min(losses, key=losses.__getitem__)
    record = record_of(Path("runs/early"))
    assert record["status"] == "done"
    assert record["step"] == max(losses) == best + 4 < 20
    assert f"{record['step']} of 20 steps" in ran.err
    assert "ended by early stopping" in ran.err
    assert same_weights(Path(f"runs/early/checkpoints/checkpoint-{best}"), Path("runs/early/model"))


def test_evaluation_is_held_out_and_only_so_many_checkpoints_are_kept(train):
    ran = train(
        "kept", "--max-steps", "6", "--test-size", "0.2", "--eval-steps", "1", "--save-total-limit", "2"
    )
    assert ran.code == 0, ran.err
    record = record_of(Path("runs/kept"))
    assert record["data"]["num_eval_rows"] == 4
    assert record["data"]["num_rows"] == NUM_ROWS - 4
    assert list(rows_of(Path("runs/kept"), "eval_loss")) == [1, 2, 3, 4, 5, 6]
    kept = sorted(each.name for each in Path("runs/kept/checkpoints").glob("checkpoint-*"))
    assert kept == ["checkpoint-5", "checkpoint-6"]
    assert "evaluation loss" in ran.err


def test_the_trl_table_reaches_trl(train):

    ran = train("trl", *LORA, "--set", "trl.weight_decay=0.25", "--set", "trl.max_grad_norm=0.5")
    assert ran.code == 0, ran.err
    arguments = json.loads(Path("runs/trl/checkpoints/checkpoint-4/training_args.json").read_text())
    assert arguments["weight_decay"] == 0.25
    assert arguments["max_grad_norm"] == 0.5
    assert not same_weights(Path("runs/trl/model"), Path("runs/lora/model"))


def test_a_dry_run_shows_every_setting_that_has_a_value_and_writes_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch
):
    from tunesmith.config.run_config import RunConfig

    write_jsonl(tmp_path / "chats.jsonl", chat_rows(8))
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "sft", "--model", tiny_model, "--dataset", "chats.jsonl", "--dry-run",
                 "--set", "trl.weight_decay=0.25"]  # fmt: skip
    ran = tunesmith(*arguments)
    assert ran.code == 0, ran.err
    shown = {line.split()[0]: line.split()[1:] for line in ran.err.splitlines() if line.strip()}
    assert shown["trl.weight_decay"] == ["0.25", "flag", "--set", "trl.weight_decay"]
    assert shown["lora_target_modules"] == ["all-linear", "default"]
    # Nothing is said of what has no value, or is off by default.
    assert not shown.keys() & {"rewards", "map", "allow", "eval_dataset", "use_dora", "max_completion_length"}
    assert "None" not in ran.err
    assert "nothing was written" in ran.err
    document = tunesmith(*arguments, "--json").document
    assert document["dry_run"] is True
    assert document["config"].keys() == RunConfig.model_fields.keys()
    assert document["provenance"]["trl.weight_decay"] == "flag --set trl.weight_decay"
    assert [each.name for each in tmp_path.iterdir()] == ["chats.jsonl"]


def test_a_plan_counts_in_words_that_fit_the_number(tiny_model: Path, tmp_path: Path, monkeypatch):
    write_jsonl(tmp_path / "chats.jsonl", chat_rows(3))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("run.yaml").write_text(
        f"model: {tiny_model}\ntuning: full\nnum_train_epochs: 1\ntest_size: 1\nglobal_batch_size: 1\n"
        "warmup_steps: 1\nuse_dora: false\ndataset:\n- {path: chats.jsonl, weight: 2}\n"
        "- {path: chats.jsonl, weight: 1}\n"
    )
    ran = tunesmith("train", "sft", "run.yaml", "--dry-run")
    assert ran.code == 0, ran.err
    shown = " ".join(ran.err.split())
    for text in (
        "1 row held out", "trained (100 %)", "of 1 row (1 epoch)", "warm-up 1 step", "1 row at a time",
        "dataset {path: chats.jsonl, weight: 2}, {path: chats.jsonl, weight: 1}", "use_dora false run.yaml:7",
    ):  # fmt: skip
        assert text in shown
    assert "lora_r" not in shown


@pytest.mark.parametrize(
    ("steps", "logged"), [("3", [1, 2, 3]), ("25", [*range(2, 25, 2), 25]), ("12", list(range(1, 13)))]
)
def test_a_short_run_logs_about_ten_times_unless_told_otherwise(
    steps: str, logged: list[int], tiny_model: Path, tmp_path: Path, monkeypatch
):
    write_jsonl(tmp_path / "chats.jsonl", chat_rows(8))
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "sft", "--model", tiny_model, "--dataset", "chats.jsonl", "--max-steps", steps,
                 "--global-batch-size", "2", "--set", "trl.report_to=none"]  # fmt: skip
    assert tunesmith(*arguments, "--run-dir", "own").code == 0
    assert list(rows_of(Path("own"))) == logged
    record = record_of(Path("own"))
    assert record["config"]["logging_steps"] == logged[0]
    assert "a tenth of its steps" in record["provenance"]["logging_steps"]
    assert tunesmith(*arguments, "--run-dir", "told", "--logging-steps", "3").code == 0
    assert record_of(Path("told"))["config"]["logging_steps"] == 3


def test_a_long_run_logs_every_ten_steps():
    from tunesmith.config.defaults import logging_steps

    assert [logging_steps(steps) for steps in (1, 9, 10, 19, 20, 99, 100, 5000)] == [1, 1, 1, 1, 2, 9, 10, 10]


def test_a_taken_run_folder_is_refused_with_the_right_next_command(train):
    from tunesmith.runs.folder import RunFolder

    train("lora", *LORA)
    before = record_of(Path("runs/lora"))
    finished = tunesmith("train", "sft", "--model", "m", "--dataset", "d", "--run-dir", "runs/lora")
    assert finished.code == 2
    assert "holds a run that is done" in finished.err
    assert "choose another --run-dir" in finished.err
    assert "resume" not in finished.err
    assert record_of(Path("runs/lora")) == before
    RunFolder.create(Path("runs/half"), {"method": "sft"}).update(status="stopped")
    unfinished = tunesmith("train", "sft", "--model", "m", "--dataset", "d", "--run-dir", "runs/half")
    assert unfinished.code == 2
    assert "no configuration that this Tunesmith can use" in unfinished.err
    Path("runs/mine").mkdir()
    Path("runs/mine/thesis.txt").write_text("mine")
    foreign = tunesmith("train", "sft", "--model", "m", "--dataset", "d", "--run-dir", "runs/mine")
    assert foreign.code == 2
    assert "choose another --run-dir" in foreign.err
    assert Path("runs/mine/thesis.txt").read_text() == "mine"
