"""The command line: its frozen surface, where it writes, and what its exit codes mean."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from running import Ran, record_of, tunesmith

import tunesmith.cli.app as command_line
from tunesmith.cli.app import VERBS, load_verb
from tunesmith.cli.output import Output, verb
from tunesmith.errors import RunInterrupted, RunStopped

# Frozen: scripts out there rely on every name. To add one is free; to rename one needs a decision page.
SURFACE = """
demo: --debug --hub --json --method --run-dir --seed
init: --debug --json --out method
validate: --allow --chat-template --debug --duplicates --eval-dataset --eval-split --findings --fix --html \
--json --map --max-length --merge --method --model --no-duplicates --out --reward --shard --split \
--token-rows data
preview: --chat-template --debug --json --map --max-length --method --model --number --row --seed --split \
-n data
plan: --allow --assistant-only-loss --chat-template --completion-only-loss --dataset --dataset-config \
--dataset-test-split --dataset-train-split --debug --device --early-stopping-patience --eval-dataset \
--eval-steps --global-batch-size --gradient-checkpointing --hardware --init-from --json --learning-rate \
--load-best-model-at-end --logging-steps --lora-alpha --lora-dropout --lora-r --lora-target-modules \
--lr-scheduler-type --map --max-completion-length --max-length --max-minutes --max-rows --max-steps \
--max-steps-without-signal --mean-tokens --method --model --model-revision --no-assistant-only-loss \
--no-completion-only-loss --no-gradient-checkpointing --no-load-best-model-at-end --no-trust-remote-code \
--no-use-dora --num-generations --num-processes --num-rows --num-train-epochs --precision --probe \
--project --rewards --run-dir --run-name --sample --save-steps --save-total-limit --seed --set \
--teacher-model --test-size --trackio-space-id --trust-remote-code --tuning --use-dora --warmup-steps run_yaml
train: --allow --allow-drift --assistant-only-loss --chat-template --completion-only-loss --dataset \
--dataset-config --dataset-test-split --dataset-train-split --debug --device --dry-run \
--early-stopping-patience --eval-dataset --eval-steps --global-batch-size --gradient-checkpointing \
--init-from --json --learning-rate --load-best-model-at-end --logging-steps --lora-alpha --lora-dropout \
--lora-r --lora-target-modules --lr-scheduler-type --map --max-completion-length --max-length \
--max-minutes --max-rows --max-steps --max-steps-without-signal --model --model-revision \
--no-assistant-only-loss --no-completion-only-loss --no-gradient-checkpointing \
--no-load-best-model-at-end --no-trust-remote-code --no-use-dora --num-generations --num-processes \
--num-train-epochs --precision --project --rewards --run-dir --run-name --save-steps --save-total-limit \
--seed --set --take-over --teacher-model --test-size --trackio-space-id --trust-remote-code --tuning \
--use-dora --warmup-steps method run_yaml
resume: --allow-drift --debug --json --take-over run_path
runs: --debug --json --yes action run_path
show: --debug --json run_path
export: --adapter --debug --format --imatrix --json --no-verify --out --quantize --verify model
publish: --debug --force --json --public repo_id run_path
dashboard: --browser --debug --json --no-browser --port --project
doctor: --debug --json
"""
HEAVY = ("torch", "transformers", "datasets", "trl", "peft", "pydantic", "trackio")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def child(*arguments: str) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", *arguments], capture_output=True, text=True, timeout=60
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_verbs_and_options_are_the_frozen_ones():
    lines = []
    for name in VERBS:
        command = load_verb(name)
        options = sorted(each for p in command.params for each in (*p.opts, *p.secondary_opts))
        lines.append(f"{name}: {' '.join(options)}")
    assert "\n".join(lines) == SURFACE.strip()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train"], []])
def test_help_and_version_import_none_of_the_heavy_packages(arguments: list[str]):
    code = (
        f"import sys; from tunesmith.cli.app import run; run({arguments!r});"
        f"print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    loaded = done.stdout.splitlines()[-1]
    # `train` without METHOD is a usage error that its own flags find: those are made from pydantic fields.
    assert loaded == ("LOADED pydantic" if arguments == ["train"] else "LOADED")


def test_help_names_every_verb_and_is_on_stdout():
    bare, asked = tunesmith(), tunesmith("--help")
    assert bare == asked
    assert asked.code == 0
    assert asked.err == ""
    assert all(name in asked.out for name in VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_shows_its_long_options_whole(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = child(name, "--help")
    assert shown.code == 0
    options = [each for p in load_verb(name).params for each in p.opts if each.startswith("--")]
    assert all(each in shown.out for each in options)
    assert "…" not in shown.out


def test_the_list_of_verbs_is_whole_in_80_columns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = child("--help").out
    assert all(meaning in shown for meaning in VERBS.values())


def test_version_is_one_line():
    import tunesmith as package

    assert tunesmith("--version") == Ran(0, f"tunesmith {package.__version__}\n", "")


def test_an_unknown_verb_is_refused_with_the_nearest_one():
    refused = tunesmith("trian")
    assert refused.code == 2
    assert refused.out == ""
    assert "no command 'trian'" in refused.err
    assert "Did you mean train?" in refused.err


@pytest.mark.parametrize(
    "arguments",
    [["trian"], ["train"], ["train", "sft", "--learning-rat", "1"], ["show"], ["demo", "--seed", "x"]],
)
def test_wrong_usage_is_a_sentence_and_with_json_one_document(arguments: list[str]):
    said, document = tunesmith(*arguments), tunesmith(*arguments, "--json")
    assert said.code == document.code == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "--help" in said.err
    assert document.err == ""
    assert document.document["status"] == "error"
    assert document.document["command"] == (arguments[0] if arguments[0] in VERBS else "tunesmith")
    assert document.document["error"]["message"] in said.err


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["init", "sft"], {"path"}),
        (["runs"], {"runs"}),
        (["doctor"], {"versions", "device", "memory_gib", "disk_gib", "hub_login", "missing"}),
        (["show", "nothing"], {"error"}),
        (["resume", "nothing"], {"error"}),
        (["publish", "nothing"], {"error"}),
        (["runs", "rm", "nothing"], {"error"}),
        (["train", "sft"], {"error"}),
    ],
)
def test_every_verb_answers_with_one_json_document(arguments: list[str], keys: set[str]):
    ran = tunesmith(*arguments, "--json")
    document = ran.document
    assert document["schema"] == "tunesmith/1"
    assert document["command"] == arguments[0]
    assert document["status"] == ("error" if "error" in keys else "done")
    assert keys <= document.keys()
    assert ran.code == (2 if "error" in keys else 0)
    for line in ran.err.splitlines():
        assert "event" in json.loads(line)


def test_every_verb_takes_json_and_debug():
    for name in VERBS:
        options = {each for p in load_verb(name).params for each in p.opts}
        assert {"--json", "--debug"} <= options, name


def test_data_goes_to_stdout_and_messages_to_stderr():
    ran = tunesmith("init", "sft", "--out", "mine.yaml")
    assert ran.out == "mine.yaml\n"
    assert "next:" in ran.err
    listed = tunesmith("runs")
    assert listed.out == ""
    assert "no runs here" in listed.err


def test_init_writes_a_file_that_train_reads_and_never_over_another():
    assert tunesmith("init", "sft").code == 0
    text = Path("run.yaml").read_text()
    again = tunesmith("init", "sft")
    assert again.code == 2
    assert "exists already" in again.err
    assert Path("run.yaml").read_text() == text
    wrong_method = tunesmith("init", "sftt")
    assert wrong_method.code == 2
    assert "methods: sft" in wrong_method.err


@pytest.mark.parametrize(
    ("error", "code", "status", "label"),
    [
        (RunStopped("stopped by SIGTERM", fix="tunesmith resume r"), 4, "stopped", "resume with"),
        (RunInterrupted("stopped by SIGINT", fix="tunesmith resume r"), 130, "stopped", "resume with"),
        (KeyboardInterrupt(), 130, "stopped", None),
        (ZeroDivisionError("division by zero"), 70, "error", "next"),
    ],
)
def test_exit_codes_and_statuses(error, code, status, label, capsys):
    import typer

    for as_json in (False, True):
        with pytest.raises(typer.Exit) as exit_info, verb("train", as_json, debug=False):
            raise error
        assert exit_info.value.exit_code == code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        if as_json:
            assert json.loads(out)["status"] == status
            assert err == ""
        else:
            assert out == ""
            assert label is None or f"{label}: " in err


@pytest.mark.parametrize("password", ["~x9Kd82jfQ", "/" + "a1B2c3D4" * 40])
def test_f06_a_password_that_looks_like_a_path_spoils_no_error(monkeypatch, password):
    monkeypatch.setenv("DB_PASSWORD", password)
    ran = tunesmith("show", f"/nowhere{password}")
    assert ran.code == 2
    assert "there is no run at" in ran.err
    assert password not in ran.err


def test_where_secrets_can_not_be_masked_an_error_is_told_without_its_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "tunesmith.publish.redaction", None)
    ran = tunesmith("show", "/nowhere")
    assert ran.code == 2
    assert "/nowhere" not in ran.err
    assert "next: tunesmith doctor" in ran.err


def test_f03_a_terminal_that_was_hung_up_is_no_error(monkeypatch):
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        out = Output("show", as_json=False)
        events = Output("show", as_json=True)
        os.close(reader)
        out.say("nobody reads this")
        out.data("nor this")
        out.styled("nor this")
        events.event({"event": "step"})
        events.document()
        events.close()


def test_an_internal_error_is_a_sentence_and_its_traceback_needs_debug(monkeypatch: pytest.MonkeyPatch):
    def broken(*args: object) -> None:
        raise LookupError("something nobody foresaw")

    monkeypatch.setattr("tunesmith.cli.show.RunFolder.open", broken)
    plain = tunesmith("show", "x")
    assert plain.code == 70
    assert "internal error, a bug of Tunesmith: LookupError: something nobody foresaw" in plain.err
    assert "test_cli.py:" in plain.err
    assert "Traceback" not in plain.err
    assert tunesmith("show", "x", "--json").document["error"]["code"] == "internal"
    debugged = tunesmith("show", "x", "--debug")
    assert debugged.code == 70
    assert "Traceback (most recent call last)" in debugged.err
    monkeypatch.setenv("TUNESMITH_DEBUG", "1")
    assert "Traceback" in tunesmith("show", "x").err


def test_a_verb_that_can_not_be_imported_is_an_internal_error_too(monkeypatch: pytest.MonkeyPatch):
    def broken(name: str) -> None:
        raise ImportError("half an installation")

    monkeypatch.setattr(command_line, "load_verb", broken)
    ran = tunesmith("doctor", "--json")
    assert ran.code == 70
    assert ran.document["command"] == "doctor"
    assert "half an installation" in ran.document["error"]["message"]


def test_a_closed_pipe_ends_nothing_with_a_traceback():
    shell = f"set -o pipefail; {sys.executable} -m tunesmith init sft --out a.yaml 2>&1 | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr + done.stdout
    assert Path("a.yaml").is_file()


def run_folder(name: str, status: str = "done") -> Path:
    from tunesmith.runs.folder import RunFolder

    run = RunFolder.create(Path("runs") / name, {"method": "sft", "config": {"model": "m"}, "num_steps": 4})
    run.update(status=status, step=4, metrics={"train_loss": 1.25})
    return run.path


def test_runs_lists_and_removes_only_when_told_so():
    path = run_folder("a")
    listed = tunesmith("runs")
    assert listed.code == 0
    assert listed.out.splitlines()[1].split()[:4] == ["a", "done", "4/4", "1.2500"]
    assert [row["run"] for row in tunesmith("runs", "--json").document["runs"]] == ["runs/a"]
    unasked = tunesmith("runs", "rm", "a")
    assert unasked.code == 2
    assert "add --yes" in unasked.err
    assert path.is_dir()
    assert tunesmith("runs", "rm", "a", "--yes").code == 0
    assert not path.exists()


MODEL = "/root/.cache/tunesmith/SmolLM2-135M-Instruct"


@pytest.mark.parametrize(("width", "shows_model"), [(80, False), (120, True)])
def test_the_list_of_runs_is_one_line_a_run(width: int, shows_model: bool, monkeypatch: pytest.MonkeyPatch):
    from tunesmith.runs.folder import RunFolder, new_run_path

    made = {"config": {"model": MODEL}, "num_steps": 100, "created_at": "2026-11-24T13:21:05+00:00"}
    path = new_run_path("dpo", MODEL)
    RunFolder.create(path, made).update(status="stopped", step=13, metrics={"train_loss": -0.00001})
    monkeypatch.setenv("COLUMNS", str(width))
    header, *lines = tunesmith("runs").out.splitlines()
    assert [line.split() for line in lines] == [
        [path.name, "stopped", "13/100", "0.0000", "11-24", "13:21", *["SmolLM2-135M-Instruct"] * shows_model]
    ]
    assert ("model" in header) == shows_model
    assert tunesmith("runs", "--json").document["runs"][0]["model"] == MODEL


def test_a_name_too_long_for_the_line_is_broken_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    run_folder("a name " * 12)
    monkeypatch.setenv("COLUMNS", "80")
    _, first, *more = tunesmith("runs").out.splitlines()
    assert first.startswith("a name a name")
    assert first.split()[-5:-2] == ["done", "4/4", "1.2500"]
    assert all(set(line.split()) <= {"a", "name"} for line in more)


def test_an_action_on_runs_that_there_is_not_names_those_there_are():
    for arguments in (["mv"], ["rm"]):
        refused = tunesmith("runs", *arguments)
        assert refused.code == 2
        assert "next: tunesmith runs, or tunesmith runs rm RUN" in refused.err


def test_a_running_run_is_neither_removed_nor_resumed():
    path = run_folder("a", status="running")
    for arguments in (["runs", "rm", "a", "--yes"], ["resume", "a"]):
        ran = tunesmith(*arguments)
        assert ran.code == 2
        assert "is running" in ran.err
    assert path.is_dir()


def test_a_done_run_is_not_resumed_and_a_strange_one_is_a_sentence():
    run_folder("a")
    assert "nothing to resume" in tunesmith("resume", "a").err
    run_folder("b", status="stopped")
    strange = tunesmith("resume", "b")
    assert strange.code == 2
    assert "no configuration that this Tunesmith can use" in strange.err
    assert record_of(Path("runs/b"))["status"] == "stopped"


def test_show_names_the_run_and_the_way_on():
    run_folder("a", status="stopped")
    shown = tunesmith("show", "a")
    assert shown.code == 0
    assert "stopped" in shown.out
    assert "tunesmith resume runs/a" in shown.out
    assert tunesmith("show", "a", "--json").document["run_status"] == "stopped"


def test_what_libraries_print_stays_out_of_the_live_bar(tmp_path: Path):
    import io

    from rich.console import Console

    from tunesmith.cli.library_log import libraries_logged
    from tunesmith.cli.output import Output
    from tunesmith.cli.progress import ProgressView
    from tunesmith.train.events import Phase, Progress

    out = Output("train", as_json=False)
    screen = io.StringIO()
    out.console = Console(file=screen, force_terminal=True, width=80)
    with libraries_logged() as log, ProgressView(out) as view:
        log.attach(tmp_path / "log.txt")
        view(Phase("training"))
        sys.stdout.write("library noise\n")
        sys.stderr.write("more of it\n")
        view(Progress(3, 10, 1.5, 200.0, 65))
    assert "3/10  loss 1.500  200 tokens/s  1 min 05 s left" in screen.getvalue()
    assert "noise" not in screen.getvalue()
    assert (tmp_path / "log.txt").read_text() == "library noise\nmore of it\n"
