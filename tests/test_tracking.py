"""One training is one run in the real Trackio store, whatever is set; and a tracker never costs the run."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Ran, record_of, start_child, tunesmith, wait_for
from tiny import chat_rows, write_jsonl

from tunesmith.runs.folder import RunFolder

WRITE_TOKEN = "the-token-of-this-test"


@pytest.fixture(autouse=True)
def _in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "chats.jsonl", chat_rows(8))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Trackio store of this test's own."""
    from trackio import sqlite_storage, utils

    folder = tmp_path / "trackio-store"
    for module in (utils, sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", folder)
    return folder


def runs_in(store: Path) -> list[tuple[str, str]]:
    """(project, run) of every run in the store."""
    from trackio.sqlite_storage import SQLiteStorage

    return [
        (path.stem, run) for path in sorted(store.glob("*.db")) for run in SQLiteStorage.get_runs(path.stem)
    ]


def command(model: Path, *options: str, run: str, steps: int) -> list[str]:
    return [
        "train", "sft", "--model", str(model), "--dataset", "chats.jsonl", "--max-steps", str(steps),
        "--global-batch-size", "4", "--logging-steps", "1", "--run-dir", run, *options,
    ]  # fmt: skip


def train(model: Path, *options: str, run: str = "runs/one", steps: int = 2) -> Ran:
    return tunesmith(*command(model, *options, run=run, steps=steps))


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ([], {}, ("tiny-chat", "one")),
        (["--set", "trl.report_to=trackio"], {}, ("tiny-chat", "one")),
        (["--set", "trl.report_to=[trackio, trackio]"], {}, ("tiny-chat", "one")),
        (["--set", "trl.report_to=all"], {}, ("tiny-chat", "one")),
        (["--set", "trl.report_to=[trackio, wandb]"], {}, ("tiny-chat", "one")),
        (["--project", "mine", "--run-name", "first"], {}, ("mine", "first")),
        (["--project", "mine"], {"TRACKIO_PROJECT": "theirs", "WANDB_PROJECT": "theirs"}, ("mine", "one")),
        ([], {"TRACKIO_PROJECT": "theirs", "TRACKIO_RUN_NAME": "other"}, ("tiny-chat", "one")),
        ([], {"TUNESMITH_PROJECT": "mine", "TUNESMITH_RUN_NAME": "first"}, ("mine", "first")),
    ],
)
def test_one_training_is_exactly_one_run(tiny_model, store, monkeypatch, options, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ran = train(tiny_model, *options)
    assert ran.code == 0, ran.err
    assert runs_in(store) == [expected]
    from trackio.sqlite_storage import SQLiteStorage

    steps = [row["train/global_step"] for row in SQLiteStorage.get_logs(*expected) if "train/loss" in row]
    assert steps == [1, 2]


@pytest.mark.parametrize("report_to", ["none", "null", "[]", "[none]"])
def test_none_is_no_run(tiny_model, store, report_to):
    ran = train(tiny_model, "--set", f"trl.report_to={report_to}")
    assert ran.code == 0, ran.err
    assert runs_in(store) == []


def test_a_known_tracker_that_is_not_installed_is_said_and_the_run_goes_on(tiny_model, store):
    ran = train(tiny_model, "--set", "trl.report_to=wandb")
    assert ran.code == 0, ran.err
    assert ran.err.count("not tracked by wandb") == 1
    assert runs_in(store) == []


@pytest.fixture
def init_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every trackio.init; a Space that is named is recorded and not made."""
    import trackio

    calls: list[dict[str, Any]] = []
    real = trackio.init

    def init(**arguments: Any) -> Any:
        calls.append(arguments)
        return real(**{**arguments, "space_id": None})

    monkeypatch.setattr(trackio, "init", init)
    return calls


@pytest.fixture
def hub_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the Hub calls that would make something."""
    from huggingface_hub import HfApi

    calls: list[str] = []
    for name in ("create_repo", "create_bucket", "add_space_secret", "upload_folder", "create_commit"):
        if hasattr(HfApi, name):
            monkeypatch.setattr(HfApi, name, lambda *a, _name=name, **k: calls.append(_name))
    return calls


def test_no_space_is_made_unless_one_is_named(tiny_model, store, init_calls, hub_calls):
    assert train(tiny_model).code == 0
    assert [call["space_id"] for call in init_calls] == [None]
    assert hub_calls == []


def test_a_named_space_is_private_and_no_second_one_is_made_from_it(tiny_model, store, init_calls, hub_calls):

    ran = train(tiny_model, "--trackio-space-id", "me/board")
    assert ran.code == 0, ran.err
    assert [(call["space_id"], call["private"]) for call in init_calls] == [("me/board", True)]
    arguments = json.loads(Path("runs/one/checkpoints/checkpoint-2/training_args.json").read_text())
    assert arguments["hub_private_repo"] is True
    assert arguments["trackio_static_space_id"] is False
    assert hub_calls == []


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_tracker_that_raises_is_one_notice_and_the_run_is_done(tiny_model, store, monkeypatch, broken):
    import trackio

    def raises(*args: Any, **kwargs: Any) -> None:
        raise OSError("the tracker is broken\nwith a second line")

    monkeypatch.setattr(trackio, broken, raises)
    ran = train(tiny_model)
    assert ran.code == 0, ran.err
    assert ran.err.count("trackio failed and is off for the rest of this run: the tracker is broken") == 1
    assert "Traceback" not in ran.err
    assert record_of(Path("runs/one"))["status"] == "done"


def test_a_store_that_can_not_be_written_is_one_notice_and_the_run_is_done(tiny_model, tmp_path, monkeypatch):
    from trackio import sqlite_storage, utils

    blocked = tmp_path / "a-file"
    blocked.write_text("not a folder")
    for module in (utils, sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", blocked)
    ran = train(tiny_model)
    assert ran.code == 0, ran.err
    assert ran.err.count("trackio failed") == 1
    assert record_of(Path("runs/one"))["status"] == "done"


@pytest.fixture
def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Starts Trackio's own server on a port, its store in the folder `served`."""
    started: list[subprocess.Popen[str]] = []

    def start(port: int) -> subprocess.Popen[str]:
        code = (
            "import sys, time, trackio; trackio.show(open_browser=False, host='127.0.0.1', share=False, "
            f"server_port={port}, block_thread=False); print('ready', flush=True); time.sleep(600)"
        )
        environment = {
            **os.environ, "TRACKIO_DIR": str(tmp_path / "served"), "TRACKIO_WRITE_TOKEN": WRITE_TOKEN
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
        )
        started.append(process)
        assert process.stdout is not None
        assert any(line.strip() == "ready" for line in process.stdout)
        return process

    yield start
    for each in started:
        each.kill()
        each.communicate()


def served(tmp_path: Path, project: str) -> dict[str, int]:
    """How many rows the server has of each run."""
    with sqlite3.connect(tmp_path / "served" / f"{project}.db") as base:
        return dict(base.execute("SELECT run_name, COUNT(*) FROM metrics GROUP BY run_name"))


def test_F38_a_server_that_is_away_is_told_once_and_has_the_rows_with_the_next_run(
    tiny_model, store, server, tmp_path, monkeypatch, free_port
):
    monkeypatch.setenv("TRACKIO_SERVER_URL", f"http://127.0.0.1:{free_port}?write_token={WRITE_TOKEN}")
    ran = train(tiny_model, run="runs/one", steps=3)
    assert ran.code == 0, ran.err
    assert ran.err.count("Trackio's server takes no rows: they are kept here") == 1
    assert "Traceback" not in ran.err
    server(free_port)
    again = train(tiny_model, run="runs/two", steps=2)
    assert again.code == 0, again.err
    assert "takes no rows" not in again.err
    assert served(tmp_path, "tiny-chat") == {"one": 4, "two": 3}


@pytest.mark.slow
def test_F38_no_step_waits_for_a_server_that_hangs_and_it_has_the_rows_with_the_next_run(
    tiny_model, store, server, tmp_path, monkeypatch, free_port
):
    monkeypatch.setenv("TRACKIO_SERVER_URL", f"http://127.0.0.1:{free_port}?write_token={WRITE_TOKEN}")
    process, row = server(free_port), RunFolder.append_metrics

    def append(run: RunFolder, figures: dict[str, Any]) -> None:
        row(run, figures)
        if figures["step"] == 3:
            process.send_signal(signal.SIGSTOP)

    monkeypatch.setattr(RunFolder, "append_metrics", append)
    ran = train(tiny_model, run="runs/one", steps=8)
    assert ran.code == 0, ran.err
    assert ran.err.count("Trackio's server takes no rows: they are kept here") == 1
    process.send_signal(signal.SIGCONT)
    again = train(tiny_model, run="runs/two", steps=2)
    assert again.code == 0, again.err
    rows = served(tmp_path, "tiny-chat")
    assert rows["one"] >= 9  # what it took before it hung, and answered to nobody, it may have twice
    assert rows["two"] == 3


def test_resume_goes_on_in_the_same_run(tiny_model, store, monkeypatch):
    import signal

    from transformers import TrainerCallback

    from tunesmith.train import callbacks

    real = callbacks.ProgressCallback.on_step_end

    def interrupts(self, args, state, control, **kwargs):
        if state.global_step == 2:
            signal.raise_signal(signal.SIGINT)
        return real(self, args, state, control, **kwargs)

    assert issubclass(callbacks.ProgressCallback, TrainerCallback)
    monkeypatch.setattr(callbacks.ProgressCallback, "on_step_end", interrupts)
    assert train(tiny_model, steps=4).code == 130
    monkeypatch.undo()
    for module in ("trackio.utils", "trackio.sqlite_storage"):
        monkeypatch.setattr(f"{module}.TRACKIO_DIR", store)
    monkeypatch.chdir(store.parent)
    resumed = tunesmith("resume", "runs/one")
    assert resumed.code == 0, resumed.err
    assert runs_in(store) == [("tiny-chat", "one")]
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs("tiny-chat", "one")
    assert [row["train/global_step"] for row in logs if "train/loss" in row] == [1, 2, 3, 4]


def test_a_run_that_ends_badly_leaves_no_tracker_behind_to_speak_at_the_exit(
    store: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    """Trackio says at the exit of the process that logs are uploaded, which nobody asked for or sees."""
    import trackio

    from tunesmith.train.callbacks import ProgressCallback

    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("something broke in the middle")

    monkeypatch.setattr(ProgressCallback, "on_step_end", breaks)
    ran = train(tiny_model)
    assert ran.code == 70
    assert "something broke" in ran.err
    assert trackio.context_vars.current_run.get() is None


@pytest.mark.slow
def test_F37_a_run_that_was_killed_has_each_step_once_in_the_store(tiny_model, store, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(store))
    write_jsonl(tmp_path / "held.jsonl", chat_rows(10)[8:])
    options = ["--save-steps", "4", "--eval-dataset", "held.jsonl", "--eval-steps", "4"]

    def told(run: str) -> list[tuple[int, str]]:
        from trackio.sqlite_storage import SQLiteStorage

        rows = SQLiteStorage.get_logs("tiny-chat", run)
        return [(row["train/global_step"], key) for row in rows for key in row if key.endswith("/loss")]

    assert train(tiny_model, *options, run="runs/twin", steps=80).code == 0
    arguments = command(tiny_model, *options, run="runs/killed", steps=80)
    child = start_child(tmp_path, *arguments)
    wait_for(lambda: Path("runs/killed/checkpoints/checkpoint-4").is_dir(), child)
    # Past a checkpoint, so that steps are done again whose figures the store has.
    wait_for(lambda: [step for step, _ in told("killed")[-1:] if step > 4 and step % 4 == 2], child)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = told("killed")
    resumed = tunesmith(*arguments)
    assert resumed.code == 0, resumed.err
    assert 0 < record_of(Path("runs/killed"))["resumed_from"] < before[-1][0] < 80
    assert sorted(told("killed")) == sorted(told("twin"))
