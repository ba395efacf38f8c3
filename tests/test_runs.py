"""The run folder: written whole or not at all, read back as it was, and honest about what became of a run."""

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tunesmith.errors import RunFolderError
from tunesmith.runs import checkpoints, folder
from tunesmith.runs.files import write_json_whole, write_text_whole
from tunesmith.runs.folder import RunFolder, list_runs, new_run_path, refuse_taken

ODD_NAMES = [
    "with space",
    "Ünïcode-京都-🙂",
    "[brackets]*?",
    "quote'\"",
    "-dash",
    ".hidden",
    "a" * 200,
    "semi;$(x)",
]


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty working folder, with runs/ in it."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    return tmp_path


def make_run(name="a", **record) -> RunFolder:
    return RunFolder.create(Path("runs") / name, {"method": "sft", **record})


def write_checkpoint(run: RunFolder, step: int) -> Path:
    folder = checkpoints.begin(run.checkpoints_path, step)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "state.json").write_text("{}")
    return checkpoints.commit(folder, step)


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


# Created, opened, updated


def test_a_run_reads_back_as_it_was_created_and_updated(root):
    run = make_run(config={"model": "m", "note": "Grüße 🙂"})
    run.update(step=3, metrics={"train_loss": 0.5})
    again = RunFolder.open(Path("runs/a"))
    assert again.record == run.record
    assert again.record["config"]["note"] == "Grüße 🙂"
    assert (again.record["step"], again.record["status"], again.record["name"]) == (3, "running", "a")
    assert again.record["versions"]["datasets"]
    assert RunFolder.open(Path("a")).path == Path("runs/a")
    assert RunFolder.open((root / "runs" / "a").absolute()).record == run.record


def test_nothing_but_whole_files_is_left_in_the_folder(root):
    run = make_run()
    for step in range(20):
        run.update(step=step)
    assert [path.name for path in run.path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_run_may_have_any_name_that_the_disk_takes(name, root):
    make_run(name).update(status="done")
    assert RunFolder.open(Path(name)).record["name"] == name
    assert [run.path.name for run in list_runs()] == [name]
    with pytest.raises(RunFolderError, match="holds a run that is done"):
        refuse_taken(Path("runs") / name)


@pytest.mark.skipif(sys.platform != "linux", reason="file names of bytes are Linux's")
def test_a_name_that_is_no_unicode_is_kept(root):
    name = os.fsdecode(b"caf\xe9")
    make_run(name)
    assert RunFolder.open(Path("runs") / name).record["name"] == name


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_others_may_read_a_run_as_the_user_lets_them(root):
    before = os.umask(0o022)
    try:
        run = make_run()
    finally:
        os.umask(before)
    assert stat.S_IMODE((run.path / "run.json").stat().st_mode) == 0o644


# Refused


def test_a_folder_that_is_taken_is_refused_with_what_to_do(root):
    make_run("done").update(status="done")
    make_run("stopped").update(status="stopped")
    Path("runs/other").mkdir()
    Path("runs/other/thesis.txt").write_text("x")
    Path("runs/file").write_text("x")
    for name, says, fix in [
        ("done", "holds a run that is done", "choose another --run-dir"),
        ("stopped", "holds a run that is stopped", "tunesmith resume runs/stopped"),
        ("other", "is not empty and holds no run", "choose another --run-dir"),
        ("file", "is a file", "choose another --run-dir"),
    ]:
        before = sorted(Path("runs", name).rglob("*"))
        with pytest.raises(RunFolderError, match=says) as refused:
            make_run(name)
        assert fix in refused.value.fix
        assert refused.value.where == f"runs/{name}"
        assert sorted(Path("runs", name).rglob("*")) == before


def test_an_empty_folder_may_become_a_run(root):
    Path("runs/a").mkdir()
    assert make_run("a").path.joinpath("run.json").is_file()


def test_a_folder_that_cannot_be_written_is_a_sentence_and_leaves_nothing(root):
    Path("file").write_text("x")
    with pytest.raises(RunFolderError, match="can't be written"):
        RunFolder.create(Path("file/deeper/run"), {})
    with pytest.raises(RunFolderError):
        RunFolder.create(Path("runs") / ("x" * 300), {})
    with pytest.raises(RunFolderError, match="can't be written"):
        RunFolder.create(Path("new/deeper/still") / ("x" * 300), {})
    assert sorted(path.name for path in root.iterdir()) == ["file", "runs"]
    assert list(Path("runs").iterdir()) == []


@pytest.mark.parametrize("name", ["none", "../none", "x" * 300, "nul\0", "none/" * 50, ""])
def test_a_run_that_is_not_there_is_a_sentence(name, root):
    with pytest.raises(RunFolderError, match="there is no run"):
        RunFolder.open(Path(name))


BROKEN = ["", "{", "[]", "null", '"x"', '{"schema": "other/9"}', "[" * 100_000, "\udcff", "{}"]


@pytest.mark.parametrize("content", BROKEN)
def test_an_unreadable_run_is_skipped_in_the_list_and_a_sentence_when_opened(content, root):
    make_run("good")
    Path("runs/broken").mkdir()
    Path("runs/broken/run.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert [run.path.name for run in list_runs()] == ["good"]
    with pytest.raises(RunFolderError, match=r"run\.json") as refused:
        RunFolder.open(Path("runs/broken"))
    assert refused.value.fix
    with pytest.raises(RunFolderError):
        refuse_taken(Path("runs/broken"))


# Listed and removed


def test_runs_are_listed_newest_first(root):
    names = ["b", "a", "d", "c"]
    for second, name in enumerate(names):
        make_run(name, created_at=f"2026-11-22T10:00:0{second}+00:00")
    make_run("c-2", created_at="2026-11-22T10:00:03+00:00")
    assert [run.path.name for run in list_runs()] == ["c-2", "c", "d", "a", "b"]


def test_where_there_are_no_runs_the_list_is_empty(root):
    assert list(list_runs()) == []
    Path("runs").rmdir()
    assert list(list_runs()) == []


def test_a_discarded_run_is_gone_and_the_last_one_takes_runs_with_it(root):
    first, second = make_run("a"), make_run("b")
    write_checkpoint(first, 3)
    first.discard()
    assert [path.name for path in Path("runs").iterdir()] == ["b"]
    second.discard()
    assert not Path("runs").exists()


def test_a_run_elsewhere_is_discarded_without_its_neighbours(root):
    run = RunFolder.create(Path("mine/deep/run"), {})
    Path("mine/deep/thesis.txt").write_text("x")
    run.discard()
    assert [path.name for path in Path("mine/deep").iterdir()] == ["thesis.txt"]


def test_new_paths_are_free_short_and_under_runs(root):
    for model in (
        "Qwen/Qwen2.5-0.5B",
        "./models/My Model/",
        "C:\\models\\tiny\\",
        "///",
        "x" * 400,
        "..",
        "🙂",
    ):
        first = new_run_path("sft", model)
        assert first.parent == Path("runs")
        assert len(first.name) < 100
        RunFolder.create(first, {})
        second = new_run_path("sft", model)
        assert not second.exists()
    assert new_run_path("sft", "Qwen/Qwen2.5-0.5B").name.startswith("sft-qwen2.5-0.5b-")
    assert new_run_path("sft", "C:\\models\\tiny\\").name.startswith("sft-tiny-")


# Status


def test_a_running_run_is_running_while_its_process_lives(root):
    assert make_run().status() == "running"


def test_a_running_run_whose_process_is_gone_is_killed(root):
    run = make_run()
    run.update(process={**run.record["process"], "pid": dead_pid()})
    assert RunFolder.open(run.path).status() == "killed"


def test_a_process_number_that_went_to_another_process_does_not_keep_a_run_running(root):
    run = make_run()
    run.update(process={**run.record["process"], "started_at": psutil.Process().create_time() - 3600})
    assert run.status() == "killed"


def test_a_dead_child_that_nobody_waited_for_is_gone(root):
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
        run = make_run()
        run.update(process={"pid": child.pid, "host": run.record["process"]["host"]})
        assert run.status() == "killed"
    finally:
        child.wait()


def test_of_a_process_on_another_machine_nothing_is_claimed(root):
    run = make_run()
    run.update(process={"pid": dead_pid(), "host": "another-machine"})
    assert run.status() == "running"


@pytest.mark.parametrize("process", [None, {}, {"pid": "x"}, "x", {"host": None}])
def test_a_record_without_a_process_has_the_status_it_names(process, root):
    run = make_run(process=process)
    assert run.status() == "running"
    run.update(status="done")
    assert run.status() == "done"


def test_a_run_that_goes_on_belongs_to_the_new_process(root):
    run = make_run()
    run.update(status="stopped", stopped_by="SIGINT", process={"pid": dead_pid(), "host": "h"})
    run.mark_running()
    again = RunFolder.open(run.path)
    assert (again.status(), again.record["process"]["pid"]) == ("running", os.getpid())
    assert again.record["stopped_by"] is None


# Checkpoints and metrics


def test_the_newest_checkpoint_is_by_number_not_by_name(root):
    run = make_run()
    assert run.newest_checkpoint() is None
    for step in (9, 100, 20):
        write_checkpoint(run, step)
    assert run.newest_checkpoint() == (run.checkpoints_path / "checkpoint-100", 100)


@pytest.mark.parametrize("content", [None, '{"schema": "tunesm', "", "[]", '{"step": 3}', "\0\0\0\0"])
def test_a_checkpoint_without_a_good_manifest_is_passed_over(content, root):
    run = make_run()
    write_checkpoint(run, 10)
    manifest = write_checkpoint(run, 20) / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    assert run.newest_checkpoint() == (run.checkpoints_path / "checkpoint-10", 10)


def test_what_only_looks_like_a_checkpoint_is_passed_over(root):
    run = make_run()
    whole = write_checkpoint(run, 5)
    for name in ("checkpoint-", "checkpoint-9x", "checkpoint-99.tmp", "xcheckpoint-99", "checkpoint--9"):
        shutil.copytree(whole, run.checkpoints_path / name)
    (run.checkpoints_path / "checkpoint-50").write_text("a file")
    assert run.newest_checkpoint() == (run.checkpoints_path / "checkpoint-5", 5)


def test_metrics_are_read_back_and_a_torn_line_costs_only_itself(root):
    run = make_run()
    assert run.read_metrics() == []
    run.append_metrics({"step": 1, "loss": 0.5, "note": "a\u2028b\n"})
    run.append_metrics({"step": 2})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 3, "lo\xff')
    assert [row["step"] for row in run.read_metrics()] == [1, 2]
    run.append_metrics({"step": 4})
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 4]
    assert run.read_metrics()[0]["note"] == "a\u2028b\n"


# Killed while writing


def until(met, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.005)


REWRITE = """
import sys
from pathlib import Path
from tunesmith.runs.files import write_text_whole
path, n = Path(sys.argv[1]), 0
while True:  # most of its time goes into writing, so that most kills land there
    n += 1
    write_text_whole(path, f'{{"n": {n}, "filler": "{str(n % 10) * 4_000_000}"}}')
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_file_that_is_rewritten_in_a_loop_is_whole_whenever_its_writer_is_killed(tmp_path):
    path, chosen = tmp_path / "run.json", random.Random(7)
    in_the_middle = 0
    for _ in range(20):
        path.unlink(missing_ok=True)
        child = subprocess.Popen([sys.executable, "-c", REWRITE, str(path)])
        try:
            until(path.is_file)
            time.sleep(chosen.uniform(0.01, 0.1))
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        document = json.loads(path.read_text())
        assert document["filler"] == str(document["n"] % 10) * 4_000_000
        torn = list(tmp_path.glob(".run.json.*"))
        in_the_middle += len(torn)
        for each in torn:
            each.unlink()
    assert in_the_middle > 0, "no kill landed inside a write: the test proved nothing"


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "run.json"
    write_json_whole(path, {"n": 1})
    with pytest.raises(UnicodeEncodeError):
        write_text_whole(path, "\ud800")
    circle: dict = {}
    circle["self"] = circle
    with pytest.raises(ValueError, match="Circular"):
        write_json_whole(path, circle)
    assert json.loads(path.read_text()) == {"n": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_the_git_state_is_of_the_working_folder(root):
    assert make_run().record["git"] is None
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    Path("a.txt").write_text("a")
    subprocess.run([*git, "add", "a.txt"], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    assert folder._git_state()["dirty"] is False
    Path("a.txt").write_text("b")
    assert folder._git_state()["dirty"] is True
