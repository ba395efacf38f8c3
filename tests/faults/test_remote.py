"""F01, F04, F05, F13, F16: checkpoints on the Hub as a run goes, and the next job that goes on from there.

The Hub is hub_server.py, a fake; the client is the real huggingface_hub. Trainings are held at a step by
their reward function, so that what happens to uploads meanwhile is an event and no matter of time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from harness import Zygote, outcome
from hub_server import TOKEN, FakeHub, until
from method_data import write_method_data
from running import Ran, record_of, rows_of, tunesmith

from tunesmith.config.run_config import Hub
from tunesmith.publish.redaction import last_part, redacted, restored
from tunesmith.publish.remote import Sender, outdated, send
from tunesmith.publish.uploader import Uploader
from tunesmith.runs import checkpoints
from tunesmith.runs.folder import RunFolder

REPO, RUN = "owner/model", Path("runs/one")
HUB = Hub(repo_id=REPO, every="save")
STEPS = 8
# At the step that the file `gate` names the reward waits until the file is gone.
REWARDS = """
import time
from pathlib import Path

def short(completions, **kwargs):
    gate, state = Path("gate"), kwargs.get("trainer_state")
    while state is not None and gate.is_file() and state.global_step >= int(gate.read_text()):
        time.sleep(0.01)
    texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
    return [-len(set(text)) / 10 for text in texts]
"""


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    started.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_method_data(tmp_path, 10)
    (tmp_path / "rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(model: Path, *more: str, run: Path = RUN) -> list[str]:
    return [
        "train", "grpo", "--model", str(model), "--dataset", "prompts.jsonl", "--rewards", "rewards.py:short",
        "--num-generations", "2", "--max-completion-length", "6", "--global-batch-size", "4",
        "--logging-steps", "1", "--max-steps", str(STEPS), "--save-steps", "2", "--learning-rate", "0.01",
        "--precision", "fp32", "--set", "trl.report_to=none", "--run-dir", str(run),
        "--set", f"hub.repo_id={REPO}", "--set", "hub.every=save", *more,
    ]  # fmt: skip


def hold_at(step: int) -> None:
    Path("gate").write_text(str(step))


def let_go(*_: object) -> None:
    Path("gate").unlink(missing_ok=True)


def steps_on(hub: FakeHub) -> list[int]:
    """The checkpoints that the branch holds."""
    if REPO not in hub.repos or "checkpoints" not in hub.repos[REPO].branches:
        return []
    names = hub.files(REPO, "checkpoints")
    return sorted({int(match[1]) for name in names if (match := re.match(r"checkpoint-(\d+)/", name))})


def said(ran: Ran) -> str:
    return " ".join(ran.err.split())


def sent_until(hub: FakeHub, step: int, *then) -> None:
    """When the checkpoint of `step` is on the Hub, call `then`."""

    def on_commit(repo_id: str, branch: str) -> None:
        if branch == "checkpoints" and step in steps_on(hub):
            hub.on_commit = lambda repo_id, branch: None
            for each in then:
                each()

    hub.on_commit = on_commit


# From one machine to another


def test_f01_a_run_killed_after_an_upload_goes_on_from_the_hub_and_equals_its_twin(
    hub, zygote, place, tiny_model, tmp_path_factory
):
    login = {"hub": hub.endpoint}
    twin = zygote.run(place, *arguments(tiny_model, run=Path("runs/twin"))[:-4])
    assert twin.code == 0, twin.err
    hold_at(5)
    with ThreadPoolExecutor(1) as pool:
        attempt = pool.submit(zygote.run, place, *arguments(tiny_model), **login)
        until(lambda: 4 in steps_on(hub))
        os.kill(record_of(place / RUN)["process"]["pid"], signal.SIGKILL)
        assert attempt.result().code == -signal.SIGKILL
    let_go()
    shutil.rmtree(RUN)
    # Another machine: another folder of another name, and the model in another place.
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(place, elsewhere, dirs_exist_ok=True)
    shutil.copytree(tiny_model, elsewhere / tiny_model.name)
    again = zygote.run(elsewhere, *arguments(elsewhere / tiny_model.name, run=Path("runs/two")), **login)
    assert again.code == 0, again.err
    assert f"{REPO} on the Hub holds this run up to step 4" in " ".join(again.err.split())
    assert "going on from step 4" in again.err
    assert outcome(elsewhere / "runs/two") == outcome(place / "runs/twin")
    record = record_of(elsewhere / "runs/two")
    assert (record["status"], record["fetched"]["step"], record["pending"]) == ("done", 4, [])
    assert steps_on(hub)[-1] == STEPS
    assert len(steps_on(hub)) == 2
    assert_nothing_private(hub, place, elsewhere)
    done = zygote.run(place, *arguments(tiny_model), **login)
    assert done.code == 2
    assert f"{REPO} on the Hub holds this run, and it is done" in done.err
    assert not (place / RUN).exists()


def assert_nothing_private(hub: FakeHub, *places: Path) -> None:
    sent = hub.everything_sent()
    assert TOKEN.encode() not in sent
    for each in places:
        assert str(each).encode() not in sent
    texts = [content for name, content in hub.files(REPO, "checkpoints").items() if name.endswith("json")]
    for word in (socket.gethostname(), str(Path.home())):
        assert not [each for each in texts if re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", each.decode())]


def held_run(hub: FakeHub, model: Path, *more: str) -> Ran:
    """A run that was stopped by SIGTERM at step 3 or later, its last checkpoint on the Hub."""
    hold_at(3)
    sent_until(hub, 2, lambda: os.kill(os.getpid(), signal.SIGTERM), let_go)
    stopped = tunesmith(*arguments(model, *more))
    assert stopped.code == 4, stopped.err
    return stopped


def test_f04_a_run_that_stops_sends_its_last_checkpoint_and_no_model(hub, place, tiny_model):
    stopped = held_run(hub, tiny_model)
    step = record_of(RUN)["step"]
    assert step > 2
    assert steps_on(hub) == [2, step]
    assert RunFolder.open(RUN).pending() == []
    assert hub.num_commits(REPO) == 0
    assert "pending" not in stopped.err
    assert not (RUN / ".outgoing").exists()
    remote = json.loads(hub.files(REPO, "checkpoints")["run.json"])
    assert "process" not in remote
    # The same command on a machine without the folder, and `resume` in one without a checkpoint.
    shutil.rmtree(RUN / "checkpoints")
    hub.seen.clear()
    resumed = tunesmith("resume", RUN)
    assert resumed.code == 0, resumed.err
    assert f"going on from step {step}" in resumed.err
    assert sorted(rows_of(RUN)) == list(range(1, STEPS + 1))
    assert json.loads(hub.files(REPO, "checkpoints")["run.json"])["status"] == "done"


def test_f16_another_configuration_is_refused_with_the_list_and_nothing_is_written(hub, place, tiny_model):
    held_run(hub, tiny_model)
    shutil.rmtree("runs")
    ran = tunesmith(*arguments(tiny_model, "--seed", "7", "--lora-r", "8"))
    assert ran.code == 2
    assert f"the run in {REPO} on the Hub belongs to another run" in said(ran)
    assert "lora_r was 16 and is 8; seed was 42 and is 7" in said(ran)
    assert "choose another hub.repo_id" in said(ran)
    assert not RUN.exists()
    dry = tunesmith(*arguments(tiny_model, "--dry-run"))
    assert dry.code == 0
    assert "it would be fetched to runs/one" in said(dry)
    assert not RUN.exists()
    allowed = tunesmith(*arguments(tiny_model, "--seed", "7"), "--allow-drift", "seed", "--dry-run")
    assert allowed.code == 0, allowed.err


LOOKS = r"GET /api/models/.*/revision/checkpoints"


@pytest.mark.slow
def test_f05_a_hub_that_is_out_of_order_for_a_moment_makes_no_run_begin_anew(
    hub, place, tiny_model, monkeypatch
):
    monkeypatch.setattr("tunesmith.cli.remote_run._WAITS_S", (0.0, 0.0))
    held_run(hub, tiny_model)
    step = record_of(RUN)["step"]
    shutil.rmtree("runs")
    met = [hub.fail(LOOKS, times=1, **fault) for fault in ({"status": 503}, {"do": "cut"})]
    ran = tunesmith(*arguments(tiny_model))
    assert ran.code == 0, ran.err
    assert [each.met for each in met] == [1, 1]
    assert said(ran).count("it is asked again in 0 s") == 2
    assert f"going on from step {step}" in ran.err


def test_f05_where_the_hub_does_not_say_whether_it_holds_the_run_none_begins(
    hub, place, tiny_model, monkeypatch
):
    monkeypatch.setattr("tunesmith.cli.remote_run._WAITS_S", (0.0, 0.0))
    hub.create(REPO)
    met = hub.fail(LOOKS, status=500)
    ran = tunesmith(*arguments(tiny_model))
    assert (ran.code, met.met) == (5, 3)
    assert f"{REPO} may hold this run, and the Hub doesn't say" in said(ran)
    assert "nothing was begun" in said(ran)
    assert not RUN.exists()
    # One that is here goes on: what lies on the Hub isn't needed for it, and isn't lost either.
    dry = tunesmith(*arguments(tiny_model, "--dry-run"))
    assert dry.code == 0, dry.err


@pytest.mark.slow
@pytest.mark.parametrize("how", ["an older copy", "a damaged file"])
def test_f33_a_folder_that_fell_behind_the_hub_goes_on_from_there(hub, place, tiny_model, how):
    hold_at(5)
    sent_until(hub, 4, lambda: os.kill(os.getpid(), signal.SIGTERM), let_go)
    stopped = tunesmith(*arguments(tiny_model))
    assert stopped.code == 4, stopped.err
    step = record_of(RUN)["step"]
    assert step > 4
    newest = RUN / "checkpoints" / f"checkpoint-{step}"
    if how == "an older copy":  # or a machine that came back after another had gone on
        checkpoints.remove(newest)
    else:
        content = bytearray((newest / "adapter_model.safetensors").read_bytes())
        content[-1] ^= 1
        (newest / "adapter_model.safetensors").write_bytes(content)
    ran = tunesmith(*arguments(tiny_model))
    assert ran.code == 0, ran.err
    assert f"{REPO} on the Hub holds this run up to step {step}" in said(ran)
    assert f"going on from step {step}" in ran.err
    assert sorted(rows_of(RUN)) == list(range(1, STEPS + 1))


def test_f24_a_run_whose_repository_holds_another_run_does_not_go_on(hub, place, tiny_model):
    held_run(hub, tiny_model)
    repo = hub.repos[REPO]
    record = json.loads(hub.files(REPO, "checkpoints")["run.json"])
    hub.add(
        repo, "checkpoints", {"run.json": json.dumps(record | {"id": "other", "name": "theirs"}).encode()}
    )
    ran = tunesmith("resume", RUN)
    assert ran.code == 2
    assert f"the branch checkpoints of {REPO} holds another run, theirs" in said(ran)
    assert record_of(RUN)["status"] == "stopped"


@pytest.mark.sweep
def test_f26_a_checkpoint_altered_on_the_hub_is_left_for_the_one_before(hub, place, tiny_model):
    held_run(hub, tiny_model)
    step = record_of(RUN)["step"]
    shutil.rmtree("runs")
    repo = hub.repos[REPO]
    held = repo.commits[repo.head("checkpoints")]
    name = f"checkpoint-{step}/state.safetensors"
    held[name] = held[name][:-1] + bytes([held[name][-1] ^ 1])
    ran = tunesmith(*arguments(tiny_model))
    assert ran.code == 0, ran.err
    assert f"going on from step {2}" in ran.err


# A Hub that is slow, dead or full


@pytest.mark.slow  # the client itself asks again for 20 s
def test_f05_a_hub_that_answers_500_is_told_once_and_the_run_ends(hub, place, tiny_model):
    hold_at(5)
    met = hub.fail(r".*/(?:branch|preupload|commit)/.*", status=500)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: (until(lambda: met.met >= 2), let_go()))
        ran = tunesmith(*arguments(tiny_model))
    assert ran.code == 5, ran.err
    assert ran.err.count("isn't on the Hub: the Hub is out of order (500)") == 1
    record = record_of(RUN)
    assert (record["status"], record["pending"]) == ("done", ["push", "checkpoint"])
    assert f"next: tunesmith publish {RUN}" in ran.err
    hub.clear()
    finished = tunesmith("publish", RUN)
    assert finished.code == 0, finished.err
    assert record_of(RUN)["pending"] == []
    assert (hub.num_commits(REPO), steps_on(hub)) == (1, [STEPS])


def test_f05_a_hub_that_hangs_holds_up_no_step(hub, place, tiny_model):
    hold_at(5)
    hang = hub.fail(r"(?:POST|GET) /api/models/.*/(?:branch/.*|preupload/checkpoints)", do="hang")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: (until(lambda: hang.met >= 1), let_go()))
        hub.on_commit = lambda repo_id, branch: hang.lifted.set() or hub.faults.clear()
        ran = tunesmith(*arguments(tiny_model))
    # The model was pushed while the request of the checkpoint was still held: all steps were done by then.
    assert ran.code == 0, ran.err
    assert hub.num_commits(REPO) == 1
    assert sorted(rows_of(RUN)) == list(range(1, STEPS + 1))
    assert steps_on(hub) == [STEPS]


# The uploader, without a training


@pytest.fixture
def run(hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.chdir(tmp_path)
    hub.create(REPO)
    return RunFolder.create(RUN, {"config": {"hub": {"repo_id": REPO, "every": "save"}}})


def keep(run: RunFolder, step: int) -> Path:
    """A checkpoint of some files, of which one bears a path of this machine."""
    import torch
    from safetensors.torch import save_file

    folder = checkpoints.begin(run.checkpoints_path, step)
    save_file({"weight": torch.full((4,), float(step))}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(Path.cwd() / "base")})
    )
    (folder / "training_args.json").write_text('{"output_dir": "/home/somebody/runs"}')
    run.append_metrics({"step": step, "loss": 1.0})
    return checkpoints.commit(folder, step)


def test_f05_an_uploader_that_is_behind_takes_the_newest_and_leaves_older_ones_out(hub, run):
    told: list[str] = []
    uploader = Uploader(run, HUB, told.append)
    hang = hub.fail(r"POST /api/models/.*/commit/checkpoints", do="hang", times=1)
    uploader.kept(keep(run, 2), 2, None)
    until(lambda: hang.met == 1)
    for step in (4, 6, 8):
        uploader.kept(keep(run, step), step, None)
        checkpoints.rotate(run.checkpoints_path, 1, [])
    # The one that is being sent was rotated away here meanwhile, and is whole there.
    assert not (run.checkpoints_path / "checkpoint-2").exists()
    hang.lifted.set()
    until(lambda: steps_on(hub)[-1:] == [8])
    assert uploader.close(30)
    assert told == []
    branch = hub.repos[REPO].branches["checkpoints"]
    held = [
        sorted({name.split("/")[0] for name in hub.repos[REPO].commits[each] if "/" in name})
        for each in branch
    ]
    assert held == [[], ["checkpoint-2"], ["checkpoint-2", "checkpoint-8"]]


def test_f05_what_is_sent_is_whole_by_its_own_manifest_and_names_no_path(hub, run, tmp_path_factory):
    uploader = Uploader(run, HUB, print)
    for step in (2, 4, 6):
        uploader.kept(keep(run, step), step, None)
        until(lambda step=step: step in steps_on(hub))
    assert uploader.close(30)
    assert steps_on(hub) == [4, 6]
    assert hub.num_commits(REPO, "checkpoints") == 3
    fetched = tmp_path_factory.mktemp("fetched")
    for name, content in hub.files(REPO, "checkpoints").items():
        (fetched / name).parent.mkdir(exist_ok=True)
        (fetched / name).write_bytes(content)
    found, aside = checkpoints.newest_whole(fetched)
    assert (found.step, aside) == (6, [])
    assert not (fetched / "checkpoint-6" / "training_args.json").exists()
    assert str(Path.cwd()).encode() not in hub.everything_sent()
    # Here nothing was changed by it.
    assert checkpoints.fault_of(checkpoints.numbered(run.checkpoints_path)[-1]) is None
    assert str(Path.cwd()) in (run.checkpoints_path / "checkpoint-6" / "adapter_config.json").read_text()


def test_f31_the_best_checkpoint_goes_along_and_stays(hub, run):
    uploader = Uploader(run, HUB, print)
    for step, best in ((2, None), (4, 2), (6, 2), (8, 2)):
        uploader.kept(keep(run, step), step, best)
        until(lambda step=step: step in steps_on(hub))
    assert uploader.close(30)
    assert steps_on(hub) == [2, 6, 8]


def test_f33_a_process_that_another_took_over_from_sends_nothing_more(hub, run):
    told: list[str] = []
    uploader = Uploader(run, HUB, told.append)
    uploader.kept(keep(run, 2), 2, None)
    until(lambda: steps_on(hub) == [2])
    until(lambda: not uploader.is_behind)
    # Another machine goes on from step 2, and is further by now.
    stage = run.path / "stage"
    shutil.copytree(keep(run, 6), stage / "checkpoint-6")
    shutil.copy(run.path / "run.json", stage)
    send(stage, REPO, 6, None, Sender(run.record["id"], "another"))
    uploader.kept(keep(run, 4), 4, None)
    until(lambda: bool(told))
    assert "another machine goes on with this run" in told[0]
    assert not uploader.close(30)
    assert steps_on(hub) == [2, 6]
    assert run.pending() == ["checkpoint"]


def test_f33_checkpoints_that_another_machine_sent_are_not_replaced_by_earlier_ones(hub, run):
    told: list[str] = []
    stage = run.path / "stage"
    shutil.copytree(keep(run, 6), stage / "checkpoint-6")
    shutil.copy(run.path / "run.json", stage)
    send(stage, REPO, 6, None, Sender(run.record["id"], "another"))
    checkpoints.remove(run.checkpoints_path / "checkpoint-6")
    uploader = Uploader(run, HUB, told.append)
    uploader.kept(keep(run, 4), 4, None)
    assert not uploader.close(60)
    assert f"{REPO} holds this run up to step 6: step 4 isn't sent" in told[0]
    assert steps_on(hub) == [6]
    # Nor by the one that this machine sent them with: the newest of its own was altered since.
    run.update(sent_by="another")
    uploader = Uploader(run, HUB, told.append)
    assert not uploader.close(60)
    assert steps_on(hub) == [6]
    uploader = Uploader(run, HUB, told.append)
    uploader.kept(keep(run, 8), 8, None)
    assert uploader.close(60)
    assert steps_on(hub) == [6, 8]


def test_f05_a_checkpoint_that_was_not_sent_is_sent_by_the_process_that_goes_on(hub, run):
    hang = hub.fail("all", do="hang")
    uploader = Uploader(run, HUB, print)
    uploader.kept(keep(run, 2), 2, None)
    until(lambda: hang.met == 1)
    assert not uploader.close(0.1)
    hub.clear()
    assert run.pending() == ["checkpoint"]
    assert Uploader(RunFolder.open(RUN), HUB, print).close(60)
    assert steps_on(hub) == [2]
    assert RunFolder.open(RUN).pending() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_f04_a_signal_to_all_processes_breaks_off_no_upload(hub, run, number):
    told: list[str] = []
    uploader = Uploader(run, HUB, told.append)
    hang = hub.fail(r"POST /api/models/.*/commit/checkpoints", do="hang", times=1)
    uploader.kept(keep(run, 2), 2, None)
    until(lambda: hang.met == 1)
    (child,) = [each for each in psutil.Process().children() if "tunesmith.publish.sending" in each.cmdline()]
    assert os.getsid(child.pid) != os.getsid(0)
    child.send_signal(number)
    hang.lifted.set()
    assert uploader.close(60)
    assert told == []  # one that is broken off is told, and done again


def test_f05_what_a_library_prints_while_a_checkpoint_is_sent_is_no_answer(hub, run, monkeypatch):
    Path("printing").mkdir()
    Path("printing/sitecustomize.py").write_text("print('a library says hello')")
    monkeypatch.setenv("PYTHONPATH", f"{Path('printing').resolve()}{os.pathsep}{os.pathsep.join(sys.path)}")
    uploader = Uploader(run, HUB, print)
    uploader.kept(keep(run, 2), 2, None)
    assert uploader.close(60)
    assert steps_on(hub) == [2]


def test_f45_a_file_that_bears_a_module_s_name_is_not_run_by_an_upload(hub, run):
    Path("json.py").write_text("raise SystemExit('json.py was run')")
    uploader = Uploader(run, HUB, print)
    uploader.kept(keep(run, 2), 2, None)
    assert uploader.close(60)
    assert steps_on(hub) == [2]


def test_f13_no_checkpoint_goes_to_a_repository_that_became_public(hub, run):
    told: list[str] = []
    hub.repos[REPO].private = False
    uploader = Uploader(run, HUB, told.append)
    uploader.kept(keep(run, 2), 2, None)
    assert not uploader.close(60)
    assert f"{REPO} on the Hub is public, and the model was to be private" in told[0]
    assert steps_on(hub) == []


def test_f26_a_checkpoint_with_a_file_that_is_not_what_it_says_is_not_sent_in_part(hub, run):
    told: list[str] = []
    folder = keep(run, 2)
    (folder / "adapter_model.safetensors").write_bytes(b"no safetensors")
    uploader = Uploader(run, HUB, told.append)
    uploader.kept(folder, 2, None)
    assert not uploader.close(60)
    assert "nothing is sent: adapter_model.safetensors is no safetensors file" in told[0]
    assert steps_on(hub) == []


def test_f24_the_branch_of_another_run_is_left_alone(hub, run):
    told: list[str] = []
    hub.repos[REPO].branches["checkpoints"] = list(hub.repos[REPO].branches["main"])
    other = {"schema": "tunesmith-run/1", "id": "of another", "name": "theirs"}
    hub.add(hub.repos[REPO], "checkpoints", {"run.json": json.dumps(other).encode()})
    uploader = Uploader(run, HUB, told.append)
    uploader.kept(keep(run, 2), 2, None)
    assert not uploader.close(60)
    assert "holds another run, theirs" in told[0]
    assert steps_on(hub) == []


def test_f05_a_refused_checkpoint_is_told_once_and_not_asked_for_again(hub, run):
    told: list[str] = []
    uploader = Uploader(run, HUB, told.append)
    commits = r"POST /api/models/.*/commit/checkpoints"
    hub.fail(commits, status=413, times=1)
    uploader.kept(keep(run, 2), 2, None)
    until(lambda: bool(told))
    assert run.pending() == ["checkpoint"]
    uploader.kept(keep(run, 4), 4, None)
    assert uploader.close(60)
    assert len(told) == 1
    assert "takes no upload of this size (413)" in told[0]
    assert "tried once more at the end" in told[0]
    assert len(hub.lines(commits)) == 2
    assert (run.pending(), steps_on(hub)) == ([], [4])


def test_f05_a_checkpoint_that_fails_is_sent_again_as_late_as_the_hub_asks(hub, run, monkeypatch):
    monkeypatch.setattr("tunesmith.publish.uploader.FIRST_WAIT_S", 0.01)
    told: list[str] = []
    commits = r"POST /api/models/.*/commit/checkpoints"
    hub.fail(commits, status=429, headers={"Retry-After": "1"}, times=2)
    uploader = Uploader(run, HUB, told.append)
    uploader.kept(keep(run, 2), 2, None)
    until(lambda: steps_on(hub) == [2])
    assert uploader.close(60)
    first, second, third = [each.at for each in hub.seen if re.fullmatch(commits, each.line)]
    assert min(second - first, third - second) >= 1.0
    assert len(told) == 1
    assert "too many requests" in told[0]


def test_f05_a_signal_waits_no_longer_than_it_may_for_a_hub_that_hangs(hub, run):
    uploader = Uploader(run, HUB, print)
    hang = hub.fail("all", do="hang")
    uploader.kept(keep(run, 2), 2, None)
    until(lambda: hang.met == 1)
    assert not uploader.close(0.1)
    assert not hang.lifted.is_set()
    assert run.pending() == ["checkpoint"]
    assert not (run.path / ".outgoing").exists()


@pytest.mark.parametrize(
    ("there", "step", "best", "gone"),
    [
        ([], 2, None, []),
        ([2], 4, None, []),
        ([2, 4], 6, None, [2]),
        ([2, 4], 6, 2, []),
        ([2, 4, 6, 8], 6, None, [2, 8]),  # the run fell back: what came after is of no use
        ([100], 2, None, [100]),
    ],
)
def test_what_the_branch_need_not_hold(there, step, best, gone):
    names = [f"checkpoint-{each}/manifest.json" for each in {*there, step}] + ["run.json", "notes.txt"]
    assert outdated(names, step, best) == {f"checkpoint-{each}/manifest.json" for each in gone}


def test_paths_that_were_taken_out_are_those_of_the_machine_that_goes_on(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "mina-laptop")
    there = {
        "model": "/home/a/models/tiny", "dataset": [{"path": "~/data/x.jsonl"}, {"path": "mina-laptop/rows"}],
        "seed": 42, "eval_dataset": "rows of mina-laptop", "run_dir": None,
    }  # fmt: skip
    here = there | {"model": "/mnt/tiny", "dataset": [{"path": "/b/x.jsonl"}, {"path": "mina-laptop/rows"}]}
    gone = redacted({"config": there})["config"]
    assert gone["model"] == "tiny"
    assert gone["eval_dataset"] == "rows of (left out)"
    assert restored(gone, here) == here
    other = here | {"model": "/mnt/large", "seed": 7, "dataset": [{"path": "/b/y.jsonl"}]}
    assert restored(gone, other) == gone | {"eval_dataset": "rows of mina-laptop"}
    assert last_part("a/b") == "a/b"
