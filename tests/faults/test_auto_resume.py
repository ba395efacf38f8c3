"""`tunesmith train` goes on with the unfinished run in its folder: only with this one, and one at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import Ran, ended, record_of, rows_of, start_child, tunesmith, wait_for
from tiny import chat_rows, write_jsonl

from tunesmith.errors import RunFolderError
from tunesmith.runs.drift import differences
from tunesmith.runs.fingerprint import model_fingerprint
from tunesmith.runs.folder import RunFolder
from tunesmith.runs.lock import held, refuse_living

RUN = Path("runs/one")
STEPS = 6
# A key and what gives it another value; arguments that name a flag of the command replace its value.
FLIPS = {
    "method": ["cpt"],
    "model": ["--model", "other"],
    "model_revision": ["--model-revision", "v2"],
    "trust_remote_code": ["--trust-remote-code"],
    "dataset": ["--dataset", "other.jsonl"],
    "dataset_config": ["--dataset-config", "en"],
    "dataset_train_split": ["--dataset-train-split", "train[:8]"],
    "dataset_test_split": ["--dataset-test-split", "test"],
    "eval_dataset": ["--eval-dataset", "other.jsonl"],
    "test_size": ["--test-size", "2"],
    "max_rows": ["--max-rows", "8"],
    "max_length": ["--max-length", "256"],
    "map": ["--map", "messages=chat"],
    "allow": ["--allow", "D207"],
    "assistant_only_loss": ["--no-assistant-only-loss"],
    "completion_only_loss": ["--no-completion-only-loss"],
    "chat_template": ["--chat-template", "zephyr"],
    "tuning": ["--tuning", "full"],
    "use_dora": ["--use-dora"],
    "lora_r": ["--lora-r", "8"],
    "lora_alpha": ["--lora-alpha", "8"],
    "lora_dropout": ["--lora-dropout", "0.2"],
    "lora_target_modules": ["--lora-target-modules", "q_proj"],
    "max_steps": ["--max-steps", "5"],
    "global_batch_size": ["--global-batch-size", "2"],
    "learning_rate": ["--learning-rate", "0.02"],
    "lr_scheduler_type": ["--lr-scheduler-type", "linear"],
    "warmup_steps": ["--warmup-steps", "2"],
    "seed": ["--seed", "7"],
    "precision": ["--precision", "bf16"],
    "device": ["--device", "cpu"],
    "gradient_checkpointing": ["--gradient-checkpointing"],
    "trl.weight_decay": ["--set", "trl.weight_decay=0.1"],
    "trl.packing": ["--set", "trl.packing=true"],
    "trl.max_grad_norm": ["--set", "trl.max_grad_norm=0.5"],
    "world_size": ["--num-processes", "2"],
}
FREE = ["--logging-steps", "3", "--save-steps", "3", "--save-total-limit", "5", "--project", "p",
        "--run-name", "n", "--max-steps", "9", "--set", "budget.max_hours=100",
        "--set", "trl.logging_first_step=true"]  # fmt: skip


def arguments(model: Path, *more: str) -> list[str]:
    """The command of the run, with `more` in place of what it says of the same keys."""
    given = {"--model": str(model), "--dataset": "chats.jsonl", "--max-steps": str(STEPS),
             "--global-batch-size": "4", "--learning-rate": "0.01", "--run-dir": str(RUN)}  # fmt: skip
    given = {flag: value for flag, value in given.items() if flag not in more}
    method = more[0] if more and not more[0].startswith("--") else "sft"
    rest = more[1:] if more and method == more[0] else more
    flat = [each for pair in given.items() for each in pair]
    return ["train", method, *flat, "--set", "trl.report_to=none", *rest]


def stopped(model: Path, *more: str) -> None:
    """A run that was set up and stopped before its first step, as run.json then has it."""
    from tunesmith.cli.training import record_of as recorded
    from tunesmith.config.loading import load_config
    from tunesmith.train.setup import set_up

    flags = {"method": "sft", "model": str(model), "dataset": "chats.jsonl", "max_steps": STEPS,
             "global_batch_size": 4, "learning_rate": 0.01, "run_dir": str(RUN)}  # fmt: skip
    loaded = load_config(flags=flags, assignments=["trl.report_to=none", *more], environ={})
    record = recorded(set_up(loaded.config, lambda event: None), loaded.provenance)
    RunFolder.create(RUN, record).update(status="stopped")


def begin_slow(place: Path, model: Path) -> tuple[Any, list[str]]:
    """A child that trains in RUN and has a checkpoint, and its command."""
    command = [*arguments(model, "--max-steps", "2000"), "--save-steps", "2", "--logging-steps", "1"]
    child = start_child(place, *command)
    wait_for(lambda: len(rows_of(RUN)) > 4 and RunFolder.open(RUN).newest_checkpoint() is not None, child)
    return child, command


def said(ran: Ran) -> str:
    return " ".join(ran.err.split())


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with a stopped run; the tests that have it leave it as it is."""
    folder = tmp_path_factory.mktemp("ready")
    write_jsonl(folder / "chats.jsonl", chat_rows(12))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stopped(tiny_model)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_jsonl(tmp_path / "chats.jsonl", chat_rows(12))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# F16: drift


@pytest.mark.parametrize("key", FLIPS)
def test_f16_a_changed_key_stops_the_run_and_is_named(
    key: str, ready: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ready)
    before = (RUN / "run.json").read_bytes()
    ran = tunesmith(*arguments(tiny_model, *FLIPS[key]))
    assert ran.code == 2, ran.err
    assert ran.out == ""
    assert f"{key} (processes) was" in ran.err if key == "world_size" else f"{key} was " in ran.err
    assert f"--allow-drift {key}" in ran.err
    assert "choose another --run-dir" in ran.err
    assert "reading the data" not in ran.err  # judged before a row is read
    assert (RUN / "run.json").read_bytes() == before


def test_f16_all_differences_are_told_at_once_before_and_now(
    ready: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ready)
    ran = tunesmith(*arguments(tiny_model, "--seed", "7", "--lora-r", "8"), "--json")
    error = ran.document["error"]
    assert "lora_r was 16 and is 8; seed was 42 and is 7" in error["message"]
    assert "--allow-drift lora_r --allow-drift seed goes on all the same" in error["fix"]
    half = tunesmith(*arguments(tiny_model, "--seed", "7", "--lora-r", "8"), "--allow-drift", "seed")
    assert half.code == 2
    assert "lora_r was 16" in half.err
    assert "seed was" not in half.err


def test_f16_what_only_logs_saves_tracks_or_makes_it_longer_is_no_drift(
    ready: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ready)
    before = (RUN / "run.json").read_bytes()
    ran = tunesmith(*arguments(tiny_model, *FREE), "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert ran.document["config"]["max_steps"] == 9
    assert ran.document["config"]["save_steps"] == 3
    assert (RUN / "run.json").read_bytes() == before


def test_f16_one_byte_of_the_data_stops_the_run(place: Path, tiny_model: Path):
    stopped(tiny_model)
    path = place / "chats.jsonl"
    text = path.read_bytes()
    at = text.index(b"years")
    path.write_bytes(text[:at] + b"Y" + text[at + 1 :])
    for command in (arguments(tiny_model), ["resume", str(RUN)]):
        ran = tunesmith(*command)
        assert ran.code == 2, ran.err
        assert "data (fingerprint of the rows) was" in ran.err
        assert "--allow-drift data" in ran.err
        assert "loading the model" not in ran.err
    path.write_bytes(text)
    assert tunesmith(*arguments(tiny_model), "--dry-run").code == 0


def test_drift_that_is_allowed_is_used_and_kept_in_the_record(place: Path, tiny_model: Path):
    stopped(tiny_model)
    ran = tunesmith(*arguments(tiny_model, "--seed", "7"), "--allow-drift", "seed")
    assert ran.code == 0, ran.err
    assert "drift: seed was 42 and is 7, from step 0 on" in ran.err
    record = record_of(RUN)
    assert (record["status"], record["config"]["seed"]) == ("done", 7)
    assert record["drift"] == [{"step": 0, "key": "seed", "before": 42, "now": 7}]
    assert "flag --seed" in record["provenance"]["seed"]
    again = tunesmith(*arguments(tiny_model, "--seed", "7"))
    assert again.code == 2
    assert "holds a run that is done" in again.err


def test_a_key_that_there_is_not_cannot_be_allowed_to_drift(place: Path, tiny_model: Path):
    ran = tunesmith(*arguments(tiny_model), "--allow-drift", "learning_rat")
    assert ran.code == 2
    assert "did you mean learning_rate?" in ran.err


def test_defaults_filled_in_later_are_no_drift(place: Path, tiny_model: Path):
    stopped(tiny_model)
    run = RunFolder.open(RUN)
    # As by a Tunesmith of other defaults, with a key of TRL that this one doesn't set.
    config = run.record["config"] | {"warmup_steps": 0.25, "trl": {"report_to": "none", "max_grad_norm": 2.0}}
    run.update(config=config, provenance=run.record["provenance"] | {"trl.max_grad_norm": "default (x)"})
    ran = tunesmith(*arguments(tiny_model), "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert ran.document["config"]["warmup_steps"] == 0.25
    assert ran.document["config"]["trl"]["max_grad_norm"] == 2.0
    chosen = tunesmith(*arguments(tiny_model, "--warmup-steps", "0.03"))
    assert "warmup_steps was 0.25 and is 0.03" in chosen.err


def test_tuning_auto_is_what_it_was_settled_to(place: Path, tiny_model: Path):
    command = arguments(tiny_model, "--tuning", "auto")
    dry = tunesmith(*command, "--dry-run", "--json")
    assert dry.document["config"]["tuning"] == "full"
    stopped(tiny_model, "tuning=full")
    ran = tunesmith(*command, "--dry-run")
    assert ran.code == 0, ran.err
    assert "holds this run, unfinished" in ran.err


@pytest.mark.parametrize(
    ("before", "now", "num_steps", "found"),
    [
        ({"max_steps": 5}, {"max_steps": 6}, 5, [True]),
        ({"max_steps": 5}, {"max_steps": 4}, 5, [False]),
        ({"max_steps": None}, {"max_steps": 9}, 9, [True]),
        ({"max_steps": None}, {"max_steps": 8}, 9, [False]),
        ({"max_steps": 5}, {"max_steps": None}, 5, [False]),
        ({"num_train_epochs": 1.0}, {"num_train_epochs": 2.0}, 5, [True]),
        ({"num_train_epochs": 2.0}, {"num_train_epochs": 1.0}, 5, [False]),
        ({"num_train_epochs": 2.0, "max_steps": 5}, {"num_train_epochs": 1.0, "max_steps": 5}, 5, []),
        ({"budget": {"max_hours": 1.0}}, {"budget": {}}, 5, []),
        ({"trl": {"save_only_model": True, "logging_dir": "x"}}, {"trl": {}}, 5, []),
        ({"trl": {"beta": 0.1}}, {"trl": {}}, 5, [False]),
    ],
)
def test_a_run_may_be_made_longer_and_never_shorter(before, now, num_steps, found):
    assert [each.free for each in differences(before, now, num_steps)] == found


# F24: the folder of another run


def test_f24_a_reused_folder_of_another_run_is_refused(place: Path, tiny_model: Path):
    stopped(tiny_model)
    write_jsonl(place / "other.jsonl", chat_rows(20)[12:])
    before = sorted((path, path.stat().st_mtime_ns) for path in RUN.iterdir() if path.name != ".lock")
    ran = tunesmith(*arguments(tiny_model, "--dataset", "other.jsonl", "--lora-r", "4"))
    assert ran.code == 2
    assert f"{RUN} belongs to another run" in ran.err
    assert "dataset was chats.jsonl and is other.jsonl; lora_r was 16 and is 4" in said(ran)
    after = sorted((path, path.stat().st_mtime_ns) for path in RUN.iterdir() if path.name != ".lock")
    assert after == before


def test_f24_a_folder_whose_run_is_done_is_refused(place: Path, tiny_model: Path):
    stopped(tiny_model)
    RunFolder.open(RUN).update(status="done")
    for more in ([], ["--max-steps", "99"]):
        ran = tunesmith(*arguments(tiny_model, *more))
        assert ran.code == 2
        assert "holds a run that is done" in ran.err


# F33: two at a time


def test_f33_two_runs_in_one_folder_and_a_killed_holder(place: Path, tiny_model: Path):
    child, command = begin_slow(place, tiny_model)
    for second in (command, ["resume", str(RUN)]):
        ran = tunesmith(*second)
        assert ran.code == 2, ran.err
        assert f"{RUN} is held by process {child.pid} on {os.uname().nodename} since 2" in said(ran)
        assert "tunesmith show runs/one" in ran.err
    assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    assert ended(child, place).code == -signal.SIGKILL
    step = RunFolder.open(RUN).newest_checkpoint()[1]
    # Steps to come are few: the rest isn't what is asked here.
    longer = [*command, "--allow-drift", "max_steps", "--json"]
    longer[longer.index("2000")] = str(step + 2)
    ran = tunesmith(*longer)
    assert ran.code == 0, ran.err
    assert f"{RUN} holds this run, unfinished: going on from step {step}" in ran.err
    assert ran.document["resumed_from"] == step
    assert ran.document["step"] == step + 2
    assert record_of(RUN)["status"] == "done"


def test_f33_one_of_two_that_begin_at_once_has_the_folder(place: Path, tiny_model: Path):
    with held(RUN):
        ran = tunesmith(*arguments(tiny_model))
        assert ran.code == 2
        assert "is held by another process, which has just begun" in said(ran)
    assert not RUN.exists()
    assert tunesmith(*arguments(tiny_model)).code == 0


def test_f33_a_lock_is_let_go_after_a_run_and_after_an_error(place: Path):
    def fails() -> None:
        with held(RUN):
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fails()
    assert not Path("runs").exists()
    with held(RUN), held(RUN, rank=1):  # the others of several processes have the first one's
        pass


def test_f33_a_run_of_another_machine_is_taken_over_only_when_told_so(place: Path, tiny_model: Path):
    stopped(tiny_model)
    process = {"pid": 17, "host": "elsewhere", "started_at": 1.0}
    RunFolder.open(RUN).update(status="running", process=process)
    ran = tunesmith(*arguments(tiny_model))
    assert ran.code == 2
    assert "is running on elsewhere" in said(ran)
    assert "process 17 on elsewhere" in said(ran)
    assert "--take-over" in ran.err
    assert tunesmith(*arguments(tiny_model), "--take-over", "--dry-run").code == 0
    with pytest.raises(RunFolderError, match="is running: process"):
        refuse_living(RunFolder.create(Path("runs/two"), {}), take_over=True)


# F49: the base model


def changed(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def test_f49_another_base_in_the_same_folder_stops_the_run(place: Path, tiny_model: Path):
    base = Path(shutil.copytree(tiny_model, place / "base"))
    stopped(base)
    assert record_of(RUN)["base"]["fingerprint"] == model_fingerprint(str(tiny_model))
    changed(base / "model.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1]))
    for command in (arguments(base), ["resume", str(RUN)]):
        ran = tunesmith(*command)
        assert ran.code == 2, ran.err
        assert "base (fingerprint of the model) was sha256:" in said(ran)
        assert "--allow-drift base goes on all the same; or put the base model base back" in said(
            ran
        ).replace(f"{place}/", "")
        assert "loading the model" not in ran.err
    assert tunesmith("resume", str(RUN), "--allow-drift", "base").code == 0
    record = record_of(RUN)
    assert record["base"]["fingerprint"] == model_fingerprint(str(base))
    assert [each["key"] for each in record["drift"]] == ["base"]


def test_f49_a_fingerprint_is_of_names_sizes_and_content_of_what_is_loaded(
    place: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    base = Path(shutil.copytree(tiny_model, place / "base"))
    first = model_fingerprint(str(base))
    assert first == model_fingerprint(str(tiny_model))
    (base / "README.md").write_text("a card")
    assert model_fingerprint(str(base)) == first
    seen = {first}
    changed(base / "config.json", lambda content: content + b" ")
    seen.add(model_fingerprint(str(base)))
    changed(base / "tokenizer.json", lambda content: content + b" ")
    seen.add(model_fingerprint(str(base)))
    (base / "adapter_model.safetensors").write_bytes(b"x")
    seen.add(model_fingerprint(str(base)))
    assert len(seen) == 4
    # Of a large file pieces are read: a change of all weights shows, and so does another size.
    monkeypatch.setattr("tunesmith.runs.fingerprint.WHOLE_BYTES", 1000)
    monkeypatch.setattr("tunesmith.runs.fingerprint.PIECE_BYTES", 10)
    large = place / "model.gguf"
    large.write_bytes(bytes(5000))
    seen = {model_fingerprint(str(large))}
    for content in (bytes(5001), b"\1" * 5000, bytes(4999) + b"\1", b"\1" + bytes(4999)):
        large.write_bytes(content)
        seen.add(model_fingerprint(str(large)))
    assert len(seen) == 5


def test_f49_a_model_of_the_hub_is_known_by_its_commit(place: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place / "hub"))
    assert model_fingerprint("some/model") is None
    folder = place / "hub" / "models--some--model"
    for commit in ("a" * 40, "b" * 40):
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        assert model_fingerprint("some/model") == f"commit:{commit}"
    assert model_fingerprint("some/model", "a" * 40) == f"commit:{'a' * 40}"


# F56: the number of processes


def test_f56_another_number_of_processes_stops_the_run(place: Path, tiny_model: Path):
    stopped(tiny_model)
    run = RunFolder.open(RUN)
    run.update(machine=run.record["machine"] | {"num_devices": 2})
    for command in (arguments(tiny_model), ["resume", str(RUN)]):
        ran = tunesmith(*command, "--json")
        assert ran.code == 2
        error = json.loads(ran.out)["error"]
        assert "can't go on as it began: world_size (processes) was 2 and is 1" in error["message"]
        assert "--allow-drift world_size" in error["fix"]
    ran = tunesmith("resume", str(RUN), "--allow-drift", "world_size")
    assert ran.code == 0, ran.err
    record = record_of(RUN)
    assert record["machine"]["num_devices"] == 1
    assert record["drift"] == [{"step": 0, "key": "world_size", "before": 2, "now": 1}]
