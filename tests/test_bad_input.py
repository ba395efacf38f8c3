"""Wrong input: one sentence that says what, where and what next; exit 2; nothing is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import tunesmith
from tiny import chat_rows, write_jsonl

# What is given instead of, or besides, a training that would work; what the sentence must hold.
CASES = {
    "missing data file": (["--dataset", "nowhere.jsonl"], ["nowhere.jsonl", "check the path"]),
    "empty data file": (["--dataset", "empty.jsonl"], ["empty.jsonl is empty"]),
    "dataset without rows": (["--dataset", "norows.json"], ["norows.json"]),
    "broken data file": (["--dataset", "broken.jsonl"], ["broken.jsonl"]),
    "unknown kind of file": (["--dataset", "chats.txt"], [".jsonl"]),
    "no such split": (["--dataset-train-split", "trian"], ["no split 'trian'", "train"]),
    "no such evaluation split": (["--dataset-test-split", "test"], ["no split 'test'"]),
    "unknown key": (["--set", "learning_rat=1"], ["learning_rat", "did you mean learning_rate?"]),
    "unknown trl key": (["--set", "trl.weight_deca=1"], ["weight_deca", "did you mean weight_decay?"]),
    "a key that is ours in trl": (["--set", "trl.output_dir=x"], ["trl.output_dir", "run_dir"]),
    "a value that TRL refuses": (["--set", "trl.optim=adamm"], ["'adamm'", "did you mean", "adamw_torch"]),
    "a schedule that does not exist": (["--lr-scheduler-type", "cosin"], ["cosin", "lr_scheduler_type"]),
    "a tracker that does not exist": (["--set", "trl.report_to=wandbb"], ["wandbb", "did you mean wandb?"]),
    "model folder that does not exist": (["--model", "./no-model"], ["./no-model", "check the path"]),
    "model folder that holds nothing": (["--model", "hollow"], ["hollow"]),
    "model folder without weights": (["--model", "weightless"], ["weightless"]),
    "Hub model while offline": (["--model", "someone/some-model"], ["someone/some-model", "HF_HUB_OFFLINE"]),
    "Hub dataset while offline": (
        ["--dataset", "someone/some-data"],
        ["someone/some-data", "HF_HUB_OFFLINE"],
    ),
    "LoRA target without a match": (["--lora-target-modules", "query"], ["'query'", "q_proj"]),
    "LoRA expression without a match": (["--lora-target-modules", "x.*y"], ["--lora-target-modules", "x.*y"]),
    "value out of range": (["--learning-rate", "5"], ["learning_rate", "less than or equal to 1"]),
    "value that is no number": (["--max-steps", "many"], ["max_steps", "many"]),
    "zero steps": (["--max-steps", "0"], ["max_steps", "greater than or equal to 1"]),
    "run_dir that is a file": (["--run-dir", "chats.jsonl"], ["chats.jsonl is a file"]),
    "run_dir below a file": (["--run-dir", "chats.jsonl/run"], ["chats.jsonl/run"]),
    "run_dir with other things in it": (["--run-dir", "hollow"], ["hollow", "choose another --run-dir"]),
    "a device that is not here": (["--device", "mps"], ["device mps", "tunesmith doctor"]),
    "fp16 on a CPU": (["--device", "cpu", "--precision", "fp16"], ["fp16", "--precision fp32"]),
    "pinned batches that do not multiply": (
        ["--set", "trl.per_device_train_batch_size=3"],
        ["per_device_train_batch_size 3", "global_batch_size 4"],
    ),
    "early stopping without evaluation": (["--early-stopping-patience", "1"], ["test_size"]),
}


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with good data and every bad thing the cases name."""
    write_jsonl(tmp_path / "chats.jsonl", chat_rows(8))
    shutil.copy(tmp_path / "chats.jsonl", tmp_path / "chats.txt")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "norows.json").write_text("[]")
    (tmp_path / "broken.jsonl").write_text('{"messages": [\n')
    for name in ("hollow", "weightless"):
        (tmp_path / name).mkdir()
    (tmp_path / "hollow" / "notes.txt").write_text("nothing to load here")
    for each in tiny_model.iterdir():
        if each.suffix != ".safetensors":
            shutil.copy(each, tmp_path / "weightless")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything_in(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))


def base(tiny_model: Path) -> list[str]:
    return ["train", "sft", "--model", str(tiny_model), "--dataset", "chats.jsonl", "--max-steps", "2",
            "--global-batch-size", "4", "--set", "trl.report_to=none"]  # fmt: skip


def with_changes(arguments: list[str], changes: list[str]) -> list[str]:
    """`arguments` with options of the same name replaced, so that none is given twice."""
    kept = list(arguments)
    for name in changes[::2]:
        if name in kept and name != "--set":
            at = kept.index(name)
            del kept[at : at + 2]
    if any("report_to" in each for each in changes):
        del kept[-2:]
    return kept + changes


@pytest.mark.parametrize("name", CASES)
def test_wrong_input_is_a_sentence_and_leaves_nothing_behind(name: str, folder: Path, tiny_model: Path):
    changes, parts = CASES[name]
    before = everything_in(folder)
    ran = tunesmith(*with_changes(base(tiny_model), changes))
    assert ran.code == 2, ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    sentence = ran.err[ran.err.index("error: ") :]
    assert all(part in sentence for part in parts), sentence
    assert "  where: " in sentence
    assert everything_in(folder) == before


def test_with_json_the_same_stands_in_one_document(folder: Path, tiny_model: Path):
    for name in (
        "missing data file",
        "unknown key",
        "LoRA target without a match",
        "a device that is not here",
    ):
        changes, parts = CASES[name]
        ran = tunesmith(*with_changes(base(tiny_model), changes), "--json")
        document = ran.document
        assert ran.code == 2
        assert document["status"] == "error"
        assert document["error"]["where"]
        assert document["error"]["fix"]
        assert all(part in " ".join(map(str, document["error"].values())) for part in parts), document


def test_unknown_method_is_refused_by_name(folder: Path):
    ran = tunesmith("train", "dpoo", "--model", "m", "--dataset", "d")
    assert ran.code == 2
    assert "there is no method 'dpoo'" in ran.err
    swapped = tunesmith("train", "run.yaml")
    assert swapped.code == 2
    assert "tunesmith train sft run.yaml" in swapped.err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where the system lets one be mounted."""
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount_point)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here (root on Linux is needed)")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)


def test_a_disk_too_small_for_the_run_is_refused_before_anything_is_written(
    small_disk: Path, folder: Path, tiny_model: Path
):
    ran = tunesmith(*base(tiny_model), "--tuning", "full", "--run-dir", small_disk / "run")
    assert ran.code == 2
    assert "the run needs about" in ran.err
    assert everything_in(small_disk) == []


def fill(disk: Path, leave: int) -> Path:
    """A file that takes all of `disk` but `leave` bytes."""
    filler = disk / "filler"
    filler.write_bytes(b"0" * (shutil.disk_usage(disk).free - leave))
    return filler


def test_a_disk_that_fills_up_before_the_first_checkpoint_leaves_no_run(
    small_disk: Path, folder: Path, tiny_model: Path
):
    # The trained weights fit, the tokenizer and the optimizer's state beside them don't.
    lora = ["--lora-r", "1", "--lora-target-modules", "q_proj", "--save-total-limit", "1"]
    fill(small_disk, leave=40_000)
    ran = tunesmith(*base(tiny_model), *lora, "--run-dir", small_disk / "run")
    assert ran.code == 2, ran.err
    assert "the disk is full" in ran.err
    assert "Traceback" not in ran.err
    assert everything_in(small_disk) == ["filler"]


def test_a_disk_that_fills_up_later_keeps_the_run_and_the_resume_line_works(
    small_disk: Path, folder: Path, tiny_model: Path
):
    lora = ["--lora-r", "1", "--lora-target-modules", "q_proj", "--save-steps", "1", "--max-steps", "20"]
    filler = fill(small_disk, leave=300_000)
    arguments = with_changes(base(tiny_model), [*lora, "--save-total-limit", "20"])
    ran = tunesmith(*arguments, "--run-dir", small_disk / "run")
    assert ran.code == 4, ran.err
    assert "the disk is full" in ran.err
    resume = next(line for line in ran.err.splitlines() if "resume with" in line).partition(
        "resume with: tunesmith "
    )[2]
    assert not (small_disk / "run" / "model").exists()
    filler.unlink()
    resumed = tunesmith(*resume.split())
    assert resumed.code in (0, 4), resumed.err
    assert "going on from step" in resumed.err


def test_a_run_folder_that_can_not_be_written_is_said(small_disk: Path, folder: Path, tiny_model: Path):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ran = tunesmith(*base(tiny_model), "--run-dir", small_disk / "run")
    assert ran.code == 2, ran.err
    assert "can't be written" in ran.err


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_read_only_parent_folder_is_said(folder: Path, tiny_model: Path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere; the read-only mount covers this")
    blocked = folder / "blocked"
    blocked.mkdir(mode=0o500)
    ran = tunesmith(*base(tiny_model), "--run-dir", blocked / "run")
    assert ran.code == 2, ran.err
    assert "can't be written" in ran.err
