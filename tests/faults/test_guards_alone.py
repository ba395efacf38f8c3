"""F01, F04, F07, F08, F09, F25, F31: guards one by one, each without a training where that is enough."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from method_data import options_for, write_method_data
from running import record_of, rows_of, same_weights, tunesmith
from tiny import chat_rows, write_jsonl
from transformers import TrainerControl, TrainerState

from tunesmith.cli.training import recorded
from tunesmith.errors import RunFolderError, RunStopped
from tunesmith.runs import checkpoints
from tunesmith.runs.folder import RunFolder
from tunesmith.train import stopping
from tunesmith.train.checkpoints import _set_state
from tunesmith.train.disk import disk_errors_said
from tunesmith.train.guards import NUM_BEFORE, SpikeCallback
from tunesmith.train.keeper import Keeper

STATE = {"world_size": 1, "optimizer": {}, "scheduler": {}, "scaler": None, "between_steps": {},
         "randomness": []}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {})


def write_little(folder: Path) -> None:
    (folder / "state.json").write_text("{}")


def test_F01_a_checkpoint_has_its_name_once_all_of_it_will_last(tmp_path, monkeypatch):
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def lasting(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def named(old: Path, new: Path) -> None:
        done.append(f"name {Path(new).name}")
        rename(old, new)

    folder = checkpoints.begin(tmp_path, 4)
    for name in ("state.json", "deeper/weights.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    monkeypatch.setattr(os, "fsync", lasting)
    monkeypatch.setattr(os, "rename", named)
    final = checkpoints.commit(folder, 4)
    assert checkpoints.fault_of(checkpoints.Checkpoint(final, 4)) is None
    before, after = done[: done.index("name checkpoint-4")], done[done.index("name checkpoint-4") + 1 :]
    assert {"state.json", "weights.safetensors", folder.name, "deeper"} <= set(before)
    assert [each for each in before if "manifest" in each]
    assert after == [tmp_path.name]


def test_F31_the_best_is_kept_beside_the_newest_two(run):
    with Keeper(run, 1) as keeper:
        for step in range(1, 6):
            keeper.keep(step, 0, 1, write_little)
    assert [each.step for each in checkpoints.numbered(run.checkpoints_path)] == [1, 4, 5]


def test_F07_a_checkpoint_without_room_isnt_begun(run):
    with Keeper(run, 2) as keeper:
        with pytest.raises(OSError, match="No space left") as raised:
            keeper.keep(1, 1 << 60, None, write_little)
        keeper.wait()
    assert raised.value.errno == errno.ENOSPC
    assert list(run.checkpoints_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ESTALE])
def test_F07_a_disk_that_fails_before_a_checkpoint_can_be_read_removes_nothing(run, number):
    run.append_metrics({"step": 1, "loss": 2.0})
    with pytest.raises(RunStopped) as stopped, recorded(run), disk_errors_said(run):
        raise OSError(number, os.strerror(number))
    assert f"({os.strerror(number)}); no checkpoint can be read" in stopped.value.message
    assert stopped.value.fix == f"tunesmith resume {run.path}"
    assert record_of(run.path)["status"] == "stopped"
    assert list(rows_of(run.path)) == [1]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), LookupError("odd")])
def test_F01_a_run_with_a_checkpoint_that_can_not_be_read_is_never_removed(run, error):
    kept = run.checkpoints_path / "checkpoint-500"
    write_there = checkpoints.begin(run.checkpoints_path, 500)
    write_little(write_there)
    checkpoints.commit(write_there, 500)
    (kept / checkpoints.MANIFEST).unlink()
    with pytest.raises((RunStopped, LookupError)), recorded(run), disk_errors_said(run):
        raise error
    assert (kept / "state.json").is_file()


@pytest.mark.parametrize("name", STATE)
def test_F25_a_part_of_the_state_that_is_missing_is_named_and_nothing_is_loaded(name):
    state = {part: value for part, value in STATE.items() if part != name}
    with pytest.raises(RunFolderError, match=f"the checkpoint checkpoint-4 holds no {name}"):
        _set_state(None, state, Path("checkpoint-4"))


def test_F04_a_step_that_would_end_after_the_deadline_isnt_begun(run, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(stopping, "time", SimpleNamespace(time=lambda: now[0]))
    state, control = TrainerState(max_steps=50), TrainerControl()
    with Keeper(run, 2) as keeper:
        stop = stopping.StopCallback(lambda event: None, keeper, deadline=1100.0)
        stop.on_train_begin(None, state, control)
        while not control.should_training_stop and state.global_step < 9:
            now[0] += 20
            state.global_step += 1
            stop.on_step_end(None, state, control)
    # Another step of 20 s and a checkpoint of a tenth of the time would end at 1110.
    assert now[0] == 1080
    assert control.should_save
    assert stop.by == "deadline"


def test_F09_gradients_that_are_no_numbers_stop_the_run_though_its_loss_is_one(
    tmp_path, tiny_model, monkeypatch
):
    from trl import SFTTrainer

    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("chats.jsonl"), chat_rows(12))
    compute_loss = SFTTrainer.compute_loss

    def steep(self, model, *args, **kwargs):
        loss = compute_loss(self, model, *args, **kwargs)
        weight = next(each for each in model.parameters() if each.requires_grad)
        # Zero, and where it is zero its slope is none.
        return loss + ((weight - weight.detach()).abs().sqrt().sum() if self.state.global_step == 2 else 0)

    monkeypatch.setattr(SFTTrainer, "compute_loss", steep)
    ran = tunesmith(
        "train", "sft", "--model", tiny_model, "--dataset", "chats.jsonl", "--max-steps", "6",
        "--global-batch-size", "4", "--save-steps", "1", "--run-dir", "run", "--precision", "fp32",
        "--set", "trl.report_to=none",
    )  # fmt: skip
    assert ran.code == 4, ran.err
    assert "gradients of step 3 are not a finite number; it learned from row " in ran.err
    assert record_of(Path("run"))["stopped_by"] == "not finite"
    assert [each.step for each in checkpoints.numbered(Path("run/checkpoints"))] == [1, 2]


def test_F08_prompts_of_a_later_epoch_come_in_the_order_of_the_twin(tmp_path, tiny_model, monkeypatch):
    from trl import GRPOTrainer

    monkeypatch.chdir(tmp_path)
    write_method_data(tmp_path, 12)
    # Two of six prompts a step: three steps an epoch.
    command = [
        "train", *options_for("grpo", tiny_model), "--max-rows", "6", "--max-steps", "9", "--set",
        "trl.per_device_train_batch_size=4", "--run-dir",
    ]  # fmt: skip
    twin = tunesmith(*command, "twin")
    assert twin.code == 0, twin.err
    compute_loss = GRPOTrainer.compute_loss

    def signalled(self, *args, **kwargs):
        if self.state.global_step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute_loss(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(GRPOTrainer, "compute_loss", signalled)
        stopped = tunesmith(*command, "run")
    assert "checkpoint at step 7 is written" in stopped.err
    assert tunesmith(*command, "run").code == 0
    for key in ("loss", "reward", "completions/mean_length"):
        assert rows_of(Path("run"), key) == rows_of(Path("twin"), key)
    asked = [
        [(row["step"], row["prompt"]) for row in map(json.loads, (Path(run) / "completions.jsonl").open())]
        for run in ("run", "twin")
    ]
    assert asked[0] == asked[1]
    assert same_weights(Path("run/model"), Path("twin/model"))


def test_a_loss_that_jumps_is_told_once():
    said = []
    callback = SpikeCallback(said.append)
    for step, loss in enumerate([2.0] * NUM_BEFORE + [6.5, 9.0, 2.0], 1):
        callback.on_log(None, SimpleNamespace(global_step=step), None, logs={"loss": loss})
    (notice,) = said
    assert f"the loss jumped to 6.5 at step {NUM_BEFORE + 1} (median of the 20 before: 2)" in notice.message
