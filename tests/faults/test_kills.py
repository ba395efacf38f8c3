"""F01, F03, F07, F08, F32, F37: runs that are killed, signalled or refused the disk, and go on by themselves.

Real processes and real signals; zygote.py forks them. The quick tests take a few moments of a save; `make
test-faults` takes every one (SWEEPS), and random ones beside.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import Attempt, Zygote, cases, outcome, write_data

NAMES = ["sft-lora", "sft-full", "dpo-lora", "dpo-full", "grpo-lora", "grpo-full"]
SEED = 20261126


@dataclass
class Ground:
    """A case's folder, its uninterrupted twin, and what one whole run does to its checkpoints."""

    zygote: Zygote
    folder: Path
    arguments: tuple[str, ...]
    twin: dict[str, Any]
    whole: Attempt

    def saves(self, step: int) -> range:
        """The events that belong to the save of `step`, from its first folder to its last removal."""
        paths = [path for _, path in self.whole.events]
        first = next(i for i, path in enumerate(paths) if f".unfinished-{step}-" in path)
        after = [i for i, path in enumerate(paths) if f".unfinished-{step + 2}-" in path]
        return range(first, after[0] if after else len(paths))

    def attempt(self, name: str, **how: Any) -> tuple[Attempt, Path]:
        run = self.folder / "runs" / name
        shutil.rmtree(run, ignore_errors=True)
        return self.zygote.run(self.folder, "train", *self.arguments, "--run-dir", f"runs/{name}", **how), run

    def goes_on(self, name: str) -> Attempt:
        """The same command once more: no other help."""
        return self.zygote.run(self.folder, "train", *self.arguments, "--run-dir", f"runs/{name}")

    def settle(self, name: str, run: Path) -> None:
        """The run goes on until it is done, and equals its twin to the last bit."""
        if not (run / "run.json").is_file() or json.loads((run / "run.json").read_text())["status"] != "done":
            assert (
                not (run / "model").exists()
                or json.loads((run / "run.json").read_text())["status"] == "running"
            )
            again = self.goes_on(name)
            assert again.code == 0, again.err
            assert "Traceback" not in again.err
        assert outcome(run) == self.twin
        hidden = [
            each.name for each in (run / "checkpoints").iterdir() if not each.name.startswith("checkpoint-")
        ]
        assert not hidden


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    started.close()


@pytest.fixture(scope="module")
def ground(zygote: Zygote, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory):
    """`ground(name)`: made once a case."""
    made: dict[str, Ground] = {}

    def make(name: str) -> Ground:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            write_data(folder)
            arguments = cases(tiny_model)[name].arguments
            run = zygote.run(folder, "train", *arguments, "--run-dir", "runs/twin")
            assert run.code == 0, run.err
            whole = zygote.run(folder, "train", *arguments, "--run-dir", "runs/whole", fault={})
            assert whole.code == 0, whole.err
            twin = outcome(folder / "runs/twin")
            assert outcome(folder / "runs/whole") == twin
            assert [row["step"] for row in twin["steps"]] == list(range(1, 9))
            made[name] = Ground(zygote, folder, arguments, twin, whole)
        return made[name]

    return make


def moments(place: Ground, step: int) -> list[int]:
    """Three telling events of a save: the first tensors, one in between, the last name given."""
    events, chosen = place.whole.events, {}
    for number in place.saves(step):
        event, path = events[number]
        kind = (event, Path(path).name.split("-")[0]) if event != "os.rename" else (event, "named")
        if event in ("os.rename", "tensors") or "manifest" in path:
            chosen[kind] = number
    found = sorted(chosen.values())
    return [found[0], found[len(found) // 2], found[-1]]


@pytest.mark.parametrize("name", ["sft-lora", pytest.param("grpo-full", marks=pytest.mark.slow)])
def test_F01_F08_killed_while_a_checkpoint_is_written_a_run_goes_on_and_equals_its_twin(ground, name):
    place = ground(name)
    for number in moments(place, 4):
        for do in ("kill", "half") if place.whole.events[number][0] == "tensors" else ("kill",):
            killed, run = place.attempt("killed", fault={"at": number, "do": do})
            assert killed.code == -9, killed.err
            place.settle("killed", run)


@pytest.mark.parametrize("name", ["sft-lora"])
def test_F07_a_disk_that_is_full_while_a_checkpoint_is_written_loses_nothing(ground, name):
    place = ground(name)
    tensors = next(n for n in place.saves(4) if place.whole.events[n][0] == "tensors")
    full_said, failing_said = "the disk is full", "the disk can't be written (Input/output error)"
    for error, why in (("ENOSPC", full_said), ("EDQUOT", full_said), ("EIO", failing_said)):
        full, run = place.attempt("full", fault={"at": tensors, "do": error, "times": 1000})
        assert full.code == 4, full.err
        assert f"{why}; checkpoint at step 2 is whole" in " ".join(full.err.split())
        assert "Traceback" not in full.err
        place.settle("full", run)


@pytest.mark.parametrize(("name", "do", "code"), [("sft-lora", "SIGTERM", 4), ("sft-lora", "SIGINT", 130)])
def test_F03_F32_a_signal_in_the_middle_of_a_save_leaves_a_checkpoint_and_no_model(ground, name, do, code):
    place = ground(name)
    for number in moments(place, 4)[1:]:
        stopped, run = place.attempt("stopped", fault={"at": number, "do": do})
        assert stopped.code == code, stopped.err
        assert f"{do} received; checkpoint at step" in stopped.err
        assert not (run / "model").exists()
        place.settle("stopped", run)


def test_F37_each_step_stands_once_in_the_metrics_of_a_run_that_was_killed_twice(ground):
    place = ground("sft-lora")
    for step in (4, 6):
        number = place.saves(step)[2]
        if step == 4:
            _, run = place.attempt("twice", fault={"at": number, "do": "kill"})
        else:
            place.zygote.run(
                place.folder, "resume", "runs/twice", fault={"at": number - place.saves(4)[0], "do": "kill"}
            )
    place.settle("twice", run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["step"] for row in rows if "loss" in row]
    assert losses == sorted(set(losses))


SWEEPS = [(name, part) for name in NAMES for part in range(2)]


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "part"), SWEEPS)
def test_F01_F08_killed_at_every_write_of_a_save(ground, record_landing, name, part):
    place = ground(name)
    for number in list(place.saves(4))[part::2]:
        event, path = place.whole.events[number]
        for do in ("kill", "half") if event.startswith("tensors") else ("kill",):
            killed, run = place.attempt("killed", fault={"at": number, "do": do})
            assert killed.code == -9, killed.err
            record_landing("write", name, f"{do} at {event} {Path(path).name}")
            place.settle("killed", run)


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES)
def test_F07_no_room_at_any_write_of_a_save(ground, record_landing, name):
    place = ground(name)
    for error, number in zip(["ENOSPC", "EDQUOT", "EIO"] * 100, place.saves(4), strict=False):
        full, run = place.attempt("full", fault={"at": number, "do": error, "times": 1000})
        assert full.code in (0, 4), full.err
        assert "Traceback" not in full.err
        record_landing("disk", name, f"{error} at {place.whole.events[number][0]}: exit {full.code}")
        place.settle("full", run)


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES)
def test_F01_F08_killed_at_random_moments(ground, record_landing, name):
    place, chosen = ground(name), random.Random(f"{SEED} {name}")
    for number in range(50):
        after = chosen.uniform(0.05, place.whole.seconds)
        killed, run = place.attempt("random", kill_after_s=after)
        inside = any(run.glob("checkpoints/.unfinished-*")) or any(run.glob("checkpoints/.removed-*"))
        rows = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").is_file() else ""
        at = rows.count("\n")
        record_landing(
            "random", name, f"{number}: exit {killed.code} after {at} steps{', in a save' * inside}"
        )
        place.settle("random", run)


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sent", ["SIGTERM", "SIGINT"])
def test_F03_F32_signalled_at_random_moments(ground, record_landing, name, sent):
    place, chosen = ground(name), random.Random(f"{SEED} {name} {sent}")
    code = {"SIGTERM": 4, "SIGINT": 130}[sent]
    for _ in range(25):
        after = chosen.uniform(0.05, place.whole.seconds)
        stopped, run = place.attempt("signalled", kill_after_s=after, kill_with=sent)
        assert stopped.code in (0, code), stopped.err
        assert "Traceback" not in stopped.err
        record_landing("signal", name, f"{sent}: exit {stopped.code}")
        assert stopped.code == 0 or not (run / "model").exists()
        place.settle("signalled", run)
