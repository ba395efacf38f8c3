"""F05, F13, F22, F41: a push that fails leaves everything here, says why, and one command finishes it.

The Hub is hub_server.py, a fake; the client is the real huggingface_hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hub_server import TOKEN, FakeHub, until
from running import record_of, tunesmith
from tiny import chat_rows, write_jsonl

from tunesmith.publish.causes import cause_of
from tunesmith.runs.folder import RunFolder

REPO = "owner/model"
RUN = Path("runs/one")
CODES = [401, 403, 404, 409, 413, 429, 500, 503]
# What the cause has to say of each.
SAID = {401: "doesn't know this login", 403: "may not write to owner/model", 404: "there is no owner/model",
        409: "something else", 413: "no upload of this size", 429: "too many requests", 500: "out of order",
        503: "out of order", "cut": "can't be reached", "hang": "answered nothing in time"}  # fmt: skip
# `make test` takes one of each kind, `make test-faults` all thirty.
QUICK = (403, 500, "hang")
FAULTS = [
    pytest.param(stage, what, marks=[] if what in QUICK else pytest.mark.sweep)
    for stage in ("begin", "middle", "end")
    for what in [*CODES, "cut", "hang"]
]


def make_run(model: Path, **config: object) -> Path:
    """A run that is done, its model a copy of `model`."""
    settings = {"method": "sft", "model": "me/base", "hub": {"repo_id": REPO}, **config}
    run = RunFolder.create(RUN, {"method": "sft", "config": settings, "num_steps": 4})
    shutil.copytree(model, run.model_path)
    run.update(status="done", step=4)
    return run.path


@pytest.fixture
def done(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_run(tiny_model)


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def published(hub: FakeHub) -> dict[str, str]:
    """What main holds, the card that was written for it left out."""
    files = hub.files(REPO)
    return {name: hashlib.sha256(files[name]).hexdigest() for name in files if name != "README.md"}


def assert_no_token(hub: FakeHub, run: Path) -> None:
    assert TOKEN.encode() not in hub.everything_sent()
    for path in run.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(("stage", "what"), FAULTS)
def test_f05_a_push_that_fails_keeps_everything_and_one_command_finishes_it(
    hub, done, monkeypatch, stage, what
):
    before = hashes(done / "model")
    fault = hub.fail(stage, **({"do": what} if isinstance(what, str) else {"status": what}))
    with monkeypatch.context() as patch:
        if what == "hang":
            patch.setattr("tunesmith.publish.patience.UPLOAD_S", 1.0)
        failed = tunesmith("publish", done, "--json")
    assert fault.met, "the fault was not met"
    assert failed.code == 5
    document = failed.document
    assert (document["status"], document["pending"]) == ("pending", ["push"])
    assert SAID[what] in document["error"]["message"]
    assert document["error"]["fix"] == f"tunesmith publish {RUN}"
    assert "Traceback" not in failed.err
    assert hashes(done / "model") == before
    record = record_of(done)
    assert (record["status"], record["pending"]) == ("done", ["push"])
    assert hub.num_commits(REPO) == 0
    assert f"push: tunesmith publish {RUN}" in tunesmith("show", done).out
    hub.clear()
    finished = tunesmith("publish", done, "--json")
    assert finished.code == 0, finished.err
    assert (finished.document["status"], finished.document["pending"]) == ("done", [])
    assert published(hub) == before == hashes(done / "model")
    assert hub.num_commits(REPO) == 1
    assert record_of(done)["pending"] == []
    assert not (done / ".outgoing").exists()
    assert_no_token(hub, done)


@pytest.mark.parametrize("stage", ["begin", "middle", "end"])
@pytest.mark.parametrize(
    "what", [{"status": 503}, {"status": 429, "headers": {"Retry-After": "7"}}, {"do": "cut"}]
)
def test_f05_a_fault_that_passes_is_passed_over(hub, done, stage, what):
    fault = hub.fail(stage, times=1, **what)
    assert tunesmith("publish", done).code == 0
    assert fault.met == 1
    assert hub.num_commits(REPO) == 1
    if "headers" in what:  # as long as the Hub asked for; huggingface_hub takes a second more
        assert hub.slept == [7.0 if stage == "end" else 8.0]


def test_f05_a_commit_whose_answer_was_lost_is_not_made_twice(hub, done):
    fault = hub.fail("end", do="lost", times=1)
    ran = tunesmith("publish", done, "--json")
    assert ran.code == 0, ran.err
    assert ran.document["changed"] is True
    assert fault.met == 1
    assert hub.num_commits(REPO) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 5), (signal.SIGINT, 130)])
def test_f03_a_signal_while_a_model_is_pushed_leaves_the_push_to_one_command(hub, done, number, code):
    hub.fail("end", do="hang", times=1)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: (until(lambda: hub.faults[0].met == 1), os.kill(os.getpid(), number)))
        stopped = tunesmith("publish", done, "--json")
    hub.clear()
    assert stopped.code == code, stopped.err
    assert stopped.document["error"]["fix"] == f"tunesmith publish {RUN}"
    assert (record_of(done)["status"], record_of(done)["pending"]) == ("done", ["push"])
    assert tunesmith("publish", done).code == 0
    assert hub.num_commits(REPO) == 1


def test_f05_a_hub_that_asks_for_an_hour_is_not_waited_for(hub, done):
    hub.fail("end", status=429, headers={"Retry-After": "3600"})
    assert tunesmith("publish", done).code == 5
    assert hub.slept == []
    assert len(hub.lines("end")) == 1


def test_f05_attempts_end(hub, done):
    hub.fail("end", status=503)
    assert tunesmith("publish", done).code == 5
    assert hub.slept == [5.0, 30.0]
    assert len(hub.lines("end")) == 6  # twice each, for the answer to the first may have been lost


def test_f05_an_unreachable_hub_is_named(hub, done):
    hub.close()
    ran = tunesmith("publish", done)
    assert ran.code == 5
    assert "the Hub can't be reached" in ran.err
    assert f"next: tunesmith publish {RUN}" in ran.err


def test_f05_what_did_not_change_is_not_sent_again(hub, done):
    assert tunesmith("publish", done, "--json").document["changed"] is True
    sent = len(hub.lines("middle")), len(hub.lines("end"))
    again = tunesmith("publish", done, "--json")
    assert again.document["changed"] is False
    assert (len(hub.lines("middle")), len(hub.lines("end"))) == sent
    assert "nothing changed" in tunesmith("publish", done).err
    (done / "model" / "config.json").write_text((done / "model" / "config.json").read_text() + "\n")
    assert tunesmith("publish", done, "--json").document["changed"] is True
    assert len(hub.lines("middle")) == sent[0]  # the weights are there
    assert hub.num_commits(REPO) == 2


def test_f05_a_card_on_the_hub_is_left_alone(hub, done):
    repo = hub.create(REPO)
    hub.add(repo, "main", {"README.md": b"# Mine"})
    assert tunesmith("publish", done).code == 0
    assert hub.files(REPO)["README.md"] == b"# Mine"


def test_a_card_that_nobody_changed_is_written_anew_with_its_picture(hub, done):
    run = RunFolder.open(done)
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": 1 / step})
    assert tunesmith("publish", done).code == 0
    first = hub.files(REPO)
    assert first["loss.png"].startswith(b"\x89PNG")
    assert b"Training loss (nats a token): 1 at step 1" in first["README.md"]
    run.update(results={"before": {"exact_match": 0.0}, "after": {"exact_match": 0.5}, "num_rows": 10})
    assert tunesmith("publish", done).code == 0
    assert b"exact match 0.0 % before, 50.0 % after" in hub.files(REPO)["README.md"]
    assert hub.num_commits(REPO) == 2
    # Another run's card is no longer true of what lies beside it.
    record = run.record | {"id": "f" * 16, "results": None}
    run.update(**record)
    assert tunesmith("publish", done).code == 0
    assert b"exact match" not in hub.files(REPO)["README.md"]
    mine = hub.files(REPO) | {"README.md": hub.files(REPO)["README.md"].replace(b"# model", b"# Mine")}
    hub.add(hub.repos[REPO], "main", mine)
    run.update(results={"before": {"exact_match": 0.0}, "after": {"exact_match": 0.75}, "num_rows": 4})
    assert tunesmith("publish", done).code == 0
    assert b"# Mine" in hub.files(REPO)["README.md"]


def test_only_a_run_that_is_done_is_published_and_it_needs_a_place(hub, done):
    run = RunFolder.open(done)
    run.update(config={"method": "sft", "model": "me/base"})
    unnamed = tunesmith("publish", done)
    assert unnamed.code == 2
    assert f"tunesmith publish {RUN} OWNER/NAME" in unnamed.err
    for name in ("alone", "a/../b", "a/NUL"):
        assert tunesmith("publish", done, name).code == 2
    run.update(status="stopped")
    stopped = tunesmith("publish", done, REPO)
    assert stopped.code == 2
    assert "only a run that is done has a model" in stopped.err
    assert hub.seen == []


def test_f05_the_retry_line_names_a_repository_that_is_not_the_runs_own(hub, done):
    hub.fail("end", status=500)
    ran = tunesmith("publish", done, "owner/other", "--public", "--json")
    assert ran.document["error"]["fix"] == f"tunesmith publish {RUN} owner/other --public"


def test_f05_a_push_elsewhere_is_not_the_runs_own(hub, done):
    RunFolder.open(done).mark_pending("push", True)
    hub.fail("begin", status=403)
    failed = tunesmith("publish", done, "owner/other", "--json")
    assert (failed.code, failed.document["pending"]) == (5, ["push"])
    assert failed.document["error"]["message"].startswith("push to the Hub: ")
    hub.clear()
    assert tunesmith("publish", done, "owner/other").code == 0
    assert record_of(done)["pending"] == ["push"]


def test_f06_a_secret_in_a_model_stays_here(hub, done):
    key = "sk-" + "proj-" + "Ab3dEf6hIj9lMn2pQr5t" * 8
    (done / "model" / "chat_template.jinja").write_text(key)
    ran = tunesmith("publish", done)
    assert ran.code == 5
    assert "nothing leaves this machine" in ran.err
    assert key.encode() not in hub.everything_sent()
    assert hub.num_commits(REPO) == 0


# F13: who sees it


def test_f13_every_repository_is_made_private_unless_asked(hub, done):
    tunesmith("publish", done)
    tunesmith("publish", done, "owner/second")
    bodies = [json.loads(each.body) for each in hub.seen if each.line == "POST /api/repos/create"]
    assert len(bodies) >= 2
    assert all(each["visibility"] == "private" for each in bodies)
    assert hub.repos[REPO].private
    assert hub.repos["owner/second"].private
    tunesmith("publish", done, "owner/third", "--public")
    assert not hub.repos["owner/third"].private


@pytest.mark.parametrize("public", [True, False])
def test_f13_a_repository_that_others_see_than_should_is_refused(hub, done, public):
    hub.create(REPO, private=not public)
    ran = tunesmith("publish", done, *([] if public else ["--public"]))
    assert ran.code == 2
    assert f"{REPO} on the Hub is {'public' if public else 'private'}" in ran.err
    assert hub.lines("begin") == []
    assert "pending" not in record_of(done) or record_of(done)["pending"] == []


def test_f22_the_token_is_in_no_body_and_no_secret_is_set_anywhere(hub, done):
    assert tunesmith("publish", done).code == 0
    assert_no_token(hub, done)
    assert not [each for each in hub.seen if "secret" in each.line or b"secrets" in each.body]
    assert not [each.line for each in hub.seen if each.line.startswith("PUT /lfs/") and each.token]


# F41: whole or not at all


def test_f41_a_push_cut_at_any_request_shows_the_old_model_or_the_new_one(hub, done):
    assert tunesmith("publish", done).code == 0
    old, commits = hub.files(REPO), list(hub.repos[REPO].branches["main"])
    stored = dict(hub.stored)
    for name in ("config.json", "generation_config.json"):
        document = json.loads((done / "model" / name).read_text())
        (done / "model" / name).write_text(json.dumps(document | {"changed": 1}))
    weights = done / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    new = old | {name: (done / "model" / name).read_bytes() for name in old if name != "README.md"}
    shown = []
    for number in range(100):
        hub.repos[REPO].branches["main"] = list(commits)
        hub.stored = dict(stored)
        fault = hub.fail("all", do="cut", skip=number)
        ran = tunesmith("publish", done)
        hub.clear()
        if not fault.met:
            assert ran.code == 0, ran.err
            break
        assert ran.code == 5, ran.err
        assert hub.files(REPO) in (old, new)
        shown.append(hub.files(REPO) == new)
    # Most of the requests come before the commit, and those that compare what the Hub holds after it.
    assert shown.count(False) > 8
    assert shown.count(True) >= 1
    assert shown == sorted(shown)


def test_f41_what_the_hub_holds_is_compared_with_what_was_sent(hub, done):
    def spoil(repo_id: str, branch: str) -> None:
        repo = hub.repos[repo_id]
        repo.commits[repo.head(branch)]["config.json"] = b"{}"

    hub.on_commit = spoil
    ran = tunesmith("publish", done)
    assert ran.code == 5
    assert f"holds other files in {REPO} than those that were sent" in ran.err
    hub.on_commit = lambda repo_id, branch: None
    assert tunesmith("publish", done).code == 0
    assert published(hub) == hashes(done / "model")


def test_f41_weights_of_another_shape_go_in_the_same_commit(hub, done):
    repo = hub.create(REPO)
    old = {"model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": b"{}", "notes.txt": b"n"}
    hub.add(repo, "main", old)
    before = hub.num_commits(REPO)
    assert tunesmith("publish", done).code == 0
    assert hub.num_commits(REPO) == before + 1
    held = hub.files(REPO)
    assert held["notes.txt"] == b"n"
    assert [name for name in held if "safetensors" in name] == ["model.safetensors"]


def test_f41_a_branch_that_moves_during_a_push_still_ends_with_one_model_whole(hub, done):
    """Between the look at the branch and the commit somebody else pushes: it is made on top of that."""
    repo = hub.create(REPO)
    add, moved = hub.add, []

    def answer_of(line: str):
        if line == f"POST /api/models/{REPO}/preupload/main" and not moved:
            moved.append(add(repo, "main", {"config.json": b"{}", "model.safetensors": b"another"}))
        return fault_of(line)

    fault_of, hub.fault_of = hub.fault_of, answer_of
    assert tunesmith("publish", done).code == 0
    assert moved
    assert len(hub.lines("end")) == 2  # the first one was refused: the branch had moved
    assert published(hub) == hashes(done / "model")


# With a training before it


def train(model: Path, *more: str):
    write_jsonl(Path("chats.jsonl"), chat_rows(12))
    return tunesmith(
        "train", "sft", "--model", model, "--dataset", "chats.jsonl", "--max-steps", "3",
        "--global-batch-size", "4", "--run-dir", RUN, "--set", "trl.report_to=none",
        "--set", f"hub.repo_id={REPO}", *more,
    )  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_f05_a_training_whose_push_fails_is_done_and_says_how_it_goes_on(hub, place, tiny_model):
    hub.fail("end", status=403)
    ran = train(tiny_model, "--json")
    assert ran.code == 5
    document = ran.document
    assert (document["status"], document["pending"], document["step"]) == ("pending", ["push"], 3)
    assert document["error"]["fix"] == f"tunesmith publish {RUN}"
    assert "may not write to owner/model (403)" in document["error"]["message"]
    record, before = record_of(RUN), hashes(RUN / "model")
    assert (record["status"], record["pending"]) == ("done", ["push"])
    hub.clear()
    assert tunesmith("publish", RUN).code == 0
    files = hub.files(REPO)
    weights = hashlib.sha256(files["adapter_model.safetensors"]).hexdigest()
    assert weights == before["adapter_model.safetensors"]
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == tiny_model.name
    assert str(tiny_model.parent).encode() not in hub.everything_sent()
    assert hashes(RUN / "model") == before
    assert_no_token(hub, RUN)


def test_a_training_ends_with_its_model_on_the_hub(hub, place, tiny_model):
    ran = train(tiny_model, "--json")
    assert ran.code == 0, ran.err
    assert ran.document["pending"] == []
    assert ran.document["url"] == f"{hub.endpoint}/{REPO}"
    assert hub.num_commits(REPO) == 1
    assert "checkpoints" not in hub.repos[REPO].branches


@pytest.mark.parametrize("login", ["none", "unknown", "reader"])
def test_f05_a_login_that_may_not_write_is_refused_before_the_data_are_read(
    hub, place, tiny_model, monkeypatch, login
):
    if login == "none":
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", login)
    hub.readers = {"reader"}
    hub.create(REPO)
    ran = train(tiny_model)
    assert ran.code == 2
    said = {"none": "there is no login", "unknown": "doesn't know this login", "reader": "may not write to"}
    assert said[login] in ran.err
    assert "where: flag --set hub.repo_id" in ran.err
    assert "next: " in ran.err
    assert "reading the data" not in ran.err
    assert not RUN.exists()


@pytest.mark.parametrize(
    "fault",
    [
        {"do": "hang"},
        pytest.param({"status": 500}, marks=pytest.mark.sweep),
        pytest.param({"do": "cut"}, marks=pytest.mark.sweep),
    ],
)
def test_f05_a_hub_that_is_away_at_first_costs_no_training(hub, place, tiny_model, monkeypatch, fault):
    monkeypatch.setattr("tunesmith.publish.patience.QUESTION_S", 0.3)
    met = hub.fail("rights", **fault)
    # It is there again when the model is saved.
    monkeypatch.setattr("tunesmith.train.training.save_model", then(hub.clear))
    ran = train(tiny_model)
    assert met.met
    assert "the Hub is asked again later" in " ".join(ran.err.split())
    assert ran.code == 0, ran.err
    assert hub.repos[REPO].private
    assert hub.num_commits(REPO) == 1


def then(after) -> object:
    from tunesmith.train.training import save_model

    def both(*args: object) -> None:
        save_model(*args)
        after()

    return both


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("run_name=../up", "run_name"), ("project=a/b", "project"), ("run_dir=runs/NUL", "run_dir"),
        ("trackio_space_id=a/../b", "trackio_space_id"), ("run_dir=/tmp/x/aux.txt", "run_dir"),
        ("run_dir=a\0b", "run_dir"), ("run_dir=a\u202eb", "run_dir"), ("hub.repo_id=../x", "hub.repo_id"),
        ("hub.repo_id=a/b.git", "hub.repo_id"), ("hub.repo_id=a/com1", "hub.repo_id"),
        ("hub.repo_id=a/b/c", "hub.repo_id"),
    ],
)  # fmt: skip
def test_f46_names_that_lead_elsewhere_are_refused_on_the_command_line(place, tiny_model, sets, said):
    ran = tunesmith("train", "sft", "--model", tiny_model, "--dataset", "d", "--set", sets, "--json")
    assert ran.code == 2
    assert ran.document["error"]["code"] == "config"
    assert ran.document["error"]["message"].startswith(f"{said}: ")
    assert ran.document["error"]["message"].isascii()
    assert list(place.iterdir()) == []


PAST_THE_DOOR = [
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "hub_strategy",
    "log_completions_hub_repo",
]


@pytest.mark.parametrize("key", PAST_THE_DOOR)
def test_f13_pushes_past_the_door_are_refused_with_the_right_name(place, key):
    ran = tunesmith("train", "sft", "--model", "m", "--dataset", "d", "--set", f"trl.{key}=1")
    assert ran.code == 2
    assert re.search(r"next: use hub\.\w+", ran.err)


@pytest.mark.parametrize("key", ["deepspeed", "fsdp", "fsdp_config"])
def test_f25_sharded_checkpoints_are_refused(place, key):
    ran = tunesmith("train", "sft", "--model", "m", "--dataset", "d", "--set", f"trl.{key}=x")
    assert ran.code == 2
    assert "can't be kept whole yet" in ran.err


def test_causes_tell_what_is_not_the_hubs_own():
    assert cause_of(ZeroDivisionError("x"), REPO) is None
    assert cause_of(ValueError("a fault of ours"), REPO) is None
