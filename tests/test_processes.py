"""One run in several processes, as on several GPUs: real processes on this CPU, over gloo."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from running import Ran, ended, record_of, rows_of, start_child, tunesmith, wait_for
from tiny import chat_rows, write_jsonl

from tunesmith.launch.local import Ended, run_processes

RUN = Path("runs/one")


def arguments(model: Path, run: Path, processes: int, steps: int, *more: str) -> list[str]:
    return ["train", "sft", "--model", str(model), "--dataset", "chats.jsonl", "--max-steps", str(steps),
            "--global-batch-size", "4", "--logging-steps", "1", "--learning-rate", "0.01",
            "--run-dir", str(run),
            "--precision", "fp32", "--device", "cpu", "--num-processes", str(processes),
            "--set", "trl.report_to=none", *more]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_jsonl(tmp_path / "chats.jsonl", chat_rows(12))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(place: Path, *command: str) -> Ran:
    return ended(start_child(place, *command), place)


def test_two_processes_train_as_one_does_and_one_of_them_writes_and_speaks(place: Path, tiny_model: Path):
    two = ran(place, *arguments(tiny_model, RUN, 2, 8), "--json")
    assert two.code == 0, two.err
    assert two.document["step"] == 8
    assert record_of(RUN)["machine"]["num_devices"] == 2
    assert record_of(RUN)["choice"]["per_device_train_batch_size"] == 2
    assert two.err.count("loading the model") == 1
    assert "Warning" not in two.err

    alone = tunesmith(*arguments(tiny_model, Path("runs/alone"), 1, 8))
    assert alone.code == 0, alone.err
    assert list(rows_of(RUN)) == list(rows_of(Path("runs/alone"))) == list(range(1, 9))
    for key in ("loss", "grad_norm", "num_tokens"):
        found, expected = (
            [json.loads(line)[key] for line in (run / "metrics.jsonl").read_text().splitlines()[:8]]
            for run in (RUN, Path("runs/alone"))
        )
        assert found == pytest.approx(expected, rel=1e-4), key


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 4)]
)
def test_a_signal_stops_all_after_the_same_step_and_the_run_goes_on(
    place: Path, tiny_model: Path, number: signal.Signals, code: int
):
    steps = 60
    child = start_child(place, *arguments(tiny_model, RUN, 2, steps))
    wait_for(lambda: 3 in rows_of(RUN), child)
    child.send_signal(number)
    stopped = ended(child, place)
    assert stopped.code == code, stopped.err
    assert "Traceback" not in stopped.err
    record = record_of(RUN)
    assert (record["status"], record["stopped_by"]) == ("stopped", number.name)
    assert 3 <= record["step"] < steps
    assert not (RUN / "model").exists()

    resumed = ran(place, "resume", str(RUN), "--json")
    assert resumed.code == 0, resumed.err
    assert (resumed.document["resumed_from"], resumed.document["step"]) == (record["step"], steps)
    assert (RUN / "model").exists()


@pytest.mark.slow
def test_when_the_command_is_killed_its_processes_end_too(place: Path, tiny_model: Path):
    child = start_child(place, *arguments(tiny_model, RUN, 2, 5000))
    wait_for(lambda: 3 in rows_of(RUN), child)
    others = psutil.Process(child.pid).children(recursive=True)
    assert len(others) >= 2
    child.kill()
    child.wait()
    _, left = psutil.wait_procs(others, timeout=60)
    assert not left


def test_a_fault_of_all_is_told_once(place: Path, tiny_model: Path):
    wrong = ran(place, *arguments(tiny_model, RUN, 2, 8, "--set", "trl.per_device_train_batch_size=3"))
    assert wrong.code == 2
    assert wrong.err.count("does not make up") == 1
    assert "failed first" not in wrong.err
    assert not RUN.exists()


def run_python(code: str) -> Ended:
    return run_processes(
        [sys.executable, "-c", f"import os, sys, time; rank = os.environ['RANK']\n{code}"], 2
    )


def test_one_that_fails_alone_ends_the_others_and_is_told_with_what_it_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tunesmith.launch.local.PATIENCE_S", 0.5)
    ended_as = run_python("if rank == '1': sys.exit('no room on this GPU')\ntime.sleep(600)")
    assert (ended_as.code, ended_as.failed) == (1, 1)
    assert ended_as.said == "no room on this GPU"


def test_one_that_hangs_when_the_first_is_done_is_ended_and_nothing_failed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tunesmith.launch.local.PATIENCE_S", 0.5)
    ended_as = run_python("if rank == '1': time.sleep(600)")
    assert (ended_as.code, ended_as.failed) == (0, None)


def test_when_the_first_has_stopped_the_others_are_not_waited_for_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tunesmith.launch.local.PATIENCE_S", 0.5)
    ended_as = run_python("if rank == '0': sys.exit(4)\ntime.sleep(600)")
    assert (ended_as.code, ended_as.failed) == (4, None)
    # The first one still writes and sends, while another has stopped in order.
    ended_as = run_python("time.sleep(2 if rank == '0' else 0)\nsys.exit(4)")
    assert (ended_as.code, ended_as.failed) == (4, None)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_is_killed_is_told_too(monkeypatch: pytest.MonkeyPatch, rank: int):
    monkeypatch.setattr("tunesmith.launch.local.PATIENCE_S", 0.5)
    ended_as = run_python(f"if rank == '{rank}': os.kill(os.getpid(), 9)\ntime.sleep(600)")
    assert (ended_as.code, ended_as.failed) == (128 + signal.SIGKILL, rank)


def test_processes_of_another_launcher_are_refused(place: Path, tiny_model: Path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    refused = tunesmith(*arguments(tiny_model, RUN, 1, 2))
    assert refused.code == 2
    assert "WORLD_SIZE" in refused.err
    assert "without torchrun" in refused.err
    assert "_TUNESMITH_LAUNCHED" not in os.environ
