"""A real child process and real signals: what is kept, what is said, and that the line to resume works."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest
from running import Ran, ended, record_of, rows_of, same_weights, start_child, tunesmith, wait_for
from tiny import chat_rows, write_jsonl

NUM_STEPS = 120
RUN = Path("runs/one")


def arguments(model: Path, run: Path, steps: int = NUM_STEPS) -> list[str]:
    # Dropout makes the twin below a test of the random state too.
    return ["train", "sft", "--model", str(model), "--dataset", "chats.jsonl", "--max-steps", str(steps),
            "--global-batch-size", "4", "--logging-steps", "1", "--lora-dropout", "0.1",
            "--learning-rate", "0.01", "--run-dir", str(run), "--set", "trl.report_to=none"]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_jsonl(tmp_path / "chats.jsonl", chat_rows(12))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stopped_by(number: signal.Signals, place: Path, model: Path, *, times: int = 1) -> Ran:
    """A training that got the signal after its third step, and ended."""
    child = start_child(place, *arguments(model, RUN))
    wait_for(lambda: 3 in rows_of(RUN), child)
    for already in range(times):
        if already:
            # The first one was heard: only then is the next a second one.
            wait_for(lambda: "stops at once" in (place / "stderr.txt").read_text(), child)
        child.send_signal(number)
    return ended(child, place)


def resume_line(ran: Ran) -> list[str]:
    line = next(line for line in ran.err.splitlines() if "resume with: " in line)
    return line.partition("resume with: tunesmith ")[2].split()


@pytest.mark.slow
def test_ctrl_c_keeps_a_checkpoint_and_the_resumed_run_equals_one_never_stopped(
    place: Path, tiny_model: Path
):
    ran = stopped_by(signal.SIGINT, place, tiny_model)
    assert ran.code == 130, ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert "SIGINT: stopping after this step" in ran.err
    record = record_of(RUN)
    assert (record["status"], record["stopped_by"]) == ("stopped", "SIGINT")
    assert 3 <= record["step"] < NUM_STEPS
    assert (RUN / "checkpoints" / f"checkpoint-{record['step']}" / "trainer_state.json").is_file()
    assert not (RUN / "model").exists()
    assert f"checkpoint at step {record['step']} is written" in ran.err

    resumed = tunesmith(*resume_line(ran), "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.document["resumed_from"] == record["step"]
    assert resumed.document["step"] == NUM_STEPS
    # What transformers computes over the resumed part alone is not passed off as the run's.
    assert "train_loss" not in resumed.document["metrics"]
    assert record_of(RUN)["status"] == "done"

    twin = tunesmith(*arguments(tiny_model, Path("runs/twin")))
    assert twin.code == 0, twin.err
    assert rows_of(RUN) == rows_of(Path("runs/twin"))
    assert same_weights(RUN / "model", Path("runs/twin/model"))


def test_sigterm_stops_in_the_same_order_with_exit_4(place: Path, tiny_model: Path):
    ran = stopped_by(signal.SIGTERM, place, tiny_model)
    assert ran.code == 4, ran.err
    record = record_of(RUN)
    assert (record["status"], record["stopped_by"]) == ("stopped", "SIGTERM")
    assert resume_line(ran) == ["resume", str(RUN)]
    assert not (RUN / "model").exists()


def test_a_second_ctrl_c_stops_at_once(place: Path, tiny_model: Path):
    # A step that lasts for minutes, so that only "at once" can end it: many rows of a step, one at a time.
    slow = [*arguments(tiny_model, RUN), "--set", "trl.per_device_train_batch_size=1"]
    slow[slow.index("--global-batch-size") + 1] = "1000000"
    child = start_child(place, *slow)
    wait_for(lambda: "training ..." in (place / "stderr.txt").read_text(), child)
    child.send_signal(signal.SIGINT)
    wait_for(lambda: "stops at once" in (place / "stderr.txt").read_text(), child)
    child.send_signal(signal.SIGINT)
    ran = ended(child, place)
    assert ran.code == 130, ran.err
    assert "Traceback" not in ran.err
    assert "there is no checkpoint yet" in ran.err
    assert record_of(RUN)["status"] == "stopped"
    assert not (RUN / "model").exists()


@pytest.mark.parametrize(
    "phase", ["checking the configuration", pytest.param("loading the model", marks=pytest.mark.slow)]
)
def test_ctrl_c_while_starting_leaves_no_run_that_looks_done(place: Path, tiny_model: Path, phase: str):
    child = start_child(place, *arguments(tiny_model, RUN))
    wait_for(lambda: phase in (place / "stderr.txt").read_text(), child)
    child.send_signal(signal.SIGINT)
    ran = ended(child, place)
    assert ran.code == 130, ran.err
    assert "Traceback" not in ran.err
    assert not (RUN / "model").exists()
    if RUN.exists():
        assert record_of(RUN)["status"] == "stopped"
        assert resume_line(ran) == ["resume", str(RUN)]
    else:
        assert "nothing was written" in ran.err
        assert "next: give the same command again" in ran.err


def test_ctrl_c_that_a_library_swallows_while_it_is_imported_still_ends_the_start():
    from tunesmith.cli.training import setting_up
    from tunesmith.errors import TunesmithError

    before = signal.getsignal(signal.SIGINT)

    def starts() -> None:
        with setting_up("give the same command again"), contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TunesmithError, match="interrupted before training began") as stopped:
        starts()
    assert stopped.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before


SIGNALS = [(signal.SIGTERM, 4, "SIGTERM received"), (signal.SIGINT, 130, "interrupted")]


@pytest.mark.parametrize(("number", "code", "said"), SIGNALS)
def test_every_verb_ends_in_order_when_a_signal_comes(place: Path, monkeypatch, number, code, said):
    def receive(path: Path) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr("tunesmith.runs.folder.RunFolder.open", receive)
    before = signal.getsignal(signal.SIGTERM)
    ran = tunesmith("show", "any")
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "code", "said"), SIGNALS)
def test_a_signal_between_the_set_up_and_the_training_leaves_what_was_there(
    place: Path, tiny_model: Path, monkeypatch, number, code, said
):
    def receive(*_: object) -> None:
        signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr("tunesmith.cli.train.sent_along", receive)
        ran = tunesmith(*arguments(tiny_model, RUN, 4), "--save-steps", "2")
    assert ran.code == code
    assert f"{said} before training began; nothing was written" in " ".join(ran.err.split())
    assert not RUN.exists()
    begun = tunesmith(*arguments(tiny_model, RUN, 4), "--save-steps", "2", "--max-minutes", "0.0001")
    assert begun.code == 4, begun.err
    with monkeypatch.context() as patch:
        patch.setattr("tunesmith.cli.going_on.sent_along", receive)
        ran = tunesmith("resume", RUN)
    assert ran.code == code
    assert record_of(RUN)["stopped_by"] == number.name
    assert resume_line(ran) == ["resume", str(RUN)]
    whole = tunesmith(*arguments(tiny_model, RUN, 4), "--save-steps", "2", "--max-minutes", "60")
    assert whole.code == 0, whole.err


def test_a_run_stopped_before_its_first_step_is_resumed_from_the_start(place: Path, tiny_model: Path):
    from tunesmith.config.loading import load_config
    from tunesmith.errors import RunInterrupted
    from tunesmith.runs.folder import RunFolder
    from tunesmith.train.events import Phase
    from tunesmith.train.setup import set_up
    from tunesmith.train.training import train

    flags = {"method": "sft", "model": str(tiny_model), "dataset": "chats.jsonl", "max_steps": 2}
    setup = set_up(
        load_config(flags=flags, assignments=["trl.report_to=none"], environ={}).config, lambda event: None
    )

    def interrupts(event) -> None:
        if event == Phase("loading the model"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(RunInterrupted, match="there is no checkpoint yet"):
        train(setup, RunFolder.create(RUN, setup.record()), interrupts)
    resumed = tunesmith("resume", str(RUN))
    assert resumed.code == 0, resumed.err
    assert "starting from step 0" in resumed.err
    assert record_of(RUN)["status"] == "done"


def test_a_run_goes_on_in_the_micro_batches_it_began_with_whatever_its_budget(place: Path, tiny_model: Path):
    from tunesmith.config.loading import load_config
    from tunesmith.errors import PlanError
    from tunesmith.runs.folder import RunFolder
    from tunesmith.train.setup import set_up

    flags = {"method": "sft", "model": str(tiny_model), "dataset": "chats.jsonl", "global_batch_size": 4}
    config = load_config(flags=flags, assignments=["trl.report_to=none"], environ={}).config
    began = set_up(config, lambda event: None)
    assert began.choice.per_device_train_batch_size == 4
    # As on a machine that had less memory free.
    choice = began.choice.as_dict() | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    run = RunFolder.create(RUN, began.record() | {"choice": choice})
    budget = config.budget.model_copy(update={"max_hours": 1e-5})
    config = config.model_copy(update={"budget": budget})
    with pytest.raises(PlanError):
        set_up(config, lambda event: None)
    gone_on = set_up(config, lambda event: None, run)
    assert gone_on.choice.per_device_train_batch_size == 2
    assert gone_on.choice.gradient_accumulation_steps == 2
