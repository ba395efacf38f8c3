"""F03, F09, F14, F25, F26, F31, F45: what ends or changes a run, and which checkpoints stand afterwards."""

from __future__ import annotations

import json
import random
import shutil
import signal
import threading
from pathlib import Path

import pytest
from harness import Zygote, cases, outcome, write_data
from running import ended, record_of, rows_of, same_weights, start_child, tunesmith, wait_for
from tiny import chat_rows, write_jsonl

from tunesmith.runs import checkpoints

RUN = Path("runs/one")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_jsonl(tmp_path / "chats.jsonl", chat_rows(12))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(model: Path, run: Path, *more: str, steps: int = 6) -> list[str]:
    return [
        "train", "sft", "--model", str(model), "--dataset", "chats.jsonl", "--max-steps", str(steps),
        "--global-batch-size", "4", "--logging-steps", "1", "--save-steps", "2", "--learning-rate", "0.01",
        "--run-dir", str(run), "--precision", "fp32", "--set", "trl.report_to=none", *more,
    ]  # fmt: skip


def with_poisoned_token(model: Path, folder: Path, text: str) -> Path:
    """`model` in which the embedding of `text` is infinite, and no other."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    head = loaded.get_input_embeddings().weight.detach().clone()
    loaded.config.tie_word_embeddings = False
    loaded.lm_head.weight = torch.nn.Parameter(head)
    (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        loaded.get_input_embeddings().weight[token] = float("inf")
    loaded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_F09_a_loss_that_is_no_number_stops_the_run_at_that_step_and_names_its_rows(place, tiny_model):
    rows = chat_rows(12)
    for turn in rows[7]["messages"]:
        turn["content"] = turn["content"].replace("Bergen", "~").replace("?", "~").replace(".", "~")
    assert "~" in json.dumps(rows[7])
    write_jsonl(place / "chats.jsonl", rows)
    model = with_poisoned_token(tiny_model, place / "poisoned", "~")
    ran = tunesmith(*options(model, RUN, steps=12))
    assert ran.code == 4, ran.err
    assert "Traceback" not in ran.err
    record = record_of(RUN)
    assert record["stopped_by"] == "not finite"
    step = int(ran.err.partition("loss of step ")[2].split()[0])
    assert step <= 3  # an epoch has three steps: the row is in one of them
    assert "is not a finite number; it learned from row " in ran.err
    assert "~" in ran.err.partition("it learned from")[2].partition("A lower learning_rate")[0]
    assert not (RUN / "model").exists()
    for each in checkpoints.numbered(RUN / "checkpoints"):
        assert each.step < step


def test_F09_weights_that_are_no_numbers_are_never_kept(place, tiny_model):
    # No row has this token: losses and gradients are numbers all the time.
    model = with_poisoned_token(tiny_model, place / "poisoned", "~")
    ran = tunesmith(*options(model, RUN, "--tuning", "full"))
    assert ran.code == 4, ran.err
    assert record_of(RUN)["stopped_by"] == "not finite"
    assert "the weight model.embed_tokens.weight of step 2 is not a finite number" in ran.err
    assert not checkpoints.numbered(RUN / "checkpoints")
    assert not (RUN / "model").exists()


def test_F14_out_of_memory_goes_on_in_smaller_micro_batches_of_the_same_global_batch(
    place, tiny_model, monkeypatch
):
    # A fake: this CPU can't run out of memory at will. torch's own error, from the third step on.
    import torch
    from trl import SFTTrainer

    twin = tunesmith(*options(tiny_model, Path("runs/twin")))
    assert twin.code == 0, twin.err
    compute_loss, sizes = SFTTrainer.compute_loss, []

    def limited(self, model, inputs, *args, **kwargs):
        sizes.append(len(inputs["input_ids"]))
        if self.state.global_step >= 3 and sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "compute_loss", limited)
    ran = tunesmith(*options(tiny_model, RUN))
    assert ran.code == 0, ran.err
    assert "out of memory; going on from step 3 with micro-batches of 2 instead of 4 rows" in ran.err
    record = record_of(RUN)
    assert record["out_of_memory"] == [
        {"step": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    ]
    assert record["choice"]["per_device_train_batch_size"] == 2
    assert sizes[-6:] == [2] * 6
    assert rows_of(RUN) == pytest.approx(rows_of(Path("runs/twin")), rel=1e-4)


def test_F14_the_largest_batch_of_the_run_is_tried_before_anything_is_learned(place, tiny_model, monkeypatch):
    from trl import SFTTrainer

    rows = chat_rows(60)
    for number, row in enumerate(rows):
        row["messages"][-1]["content"] *= 1 + number * 7 % 5
    write_jsonl(place / "chats.jsonl", rows)
    compute_loss, sizes = SFTTrainer.compute_loss, []

    def seen(self, model, inputs, *args, **kwargs):
        sizes.append((self.state.global_step, int(inputs["attention_mask"].sum())))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "compute_loss", seen)
    ran = tunesmith(*options(tiny_model, RUN, steps=20))
    assert ran.code == 0, ran.err
    (_, tried), *learned = sizes
    assert [step for step, _ in learned] == list(range(20))
    assert tried == max(size for _, size in learned)
    # A batch that this run is too short for isn't asked to fit.
    sizes.clear()
    assert tunesmith(*options(tiny_model, Path("runs/short"), steps=2)).code == 0
    assert sizes[0][1] == max(size for _, size in sizes[1:]) < tried


def test_F14_a_batch_that_does_not_fit_is_known_before_anything_is_learned(place, tiny_model, monkeypatch):
    # A fake: this CPU can't run out of memory at will. Rows so long as the longest fit two at a time only.
    import torch
    from trl import SFTTrainer

    rows = chat_rows(12)
    rows[7]["messages"][-1]["content"] *= 4
    write_jsonl(place / "chats.jsonl", rows)
    twin = tunesmith(*options(tiny_model, Path("runs/twin")))
    assert twin.code == 0, twin.err
    compute_loss, tried = SFTTrainer.compute_loss, []

    def limited(self, model, inputs, *args, **kwargs):
        shape = tuple(inputs["input_ids"].shape)
        tried.append((self.state.global_step, *shape))
        if shape[0] > 2 and shape[1] > 150:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "compute_loss", limited)
    ran = tunesmith(*options(tiny_model, RUN))
    assert ran.code == 0, ran.err
    assert "out of memory; going on from step 0 with micro-batches of 2 instead of 4 rows" in ran.err
    assert [each[:2] for each in tried[:2]] == [(0, 4), (0, 2)]
    assert min(tried[0][2], tried[1][2]) > 150
    assert rows_of(RUN) == pytest.approx(rows_of(Path("runs/twin")), rel=1e-4)


def test_F14_where_nothing_is_smaller_the_run_stops_with_what_it_has(place, tiny_model, monkeypatch):
    import torch
    from trl import SFTTrainer

    compute_loss = SFTTrainer.compute_loss

    def limited(self, *args, **kwargs):
        if self.state.global_step >= 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "compute_loss", limited)
    ran = tunesmith(*options(tiny_model, RUN))
    assert ran.code == 4, ran.err
    assert record_of(RUN)["stopped_by"] == "memory"
    assert "out of memory in micro-batches of 1 row: the largest batch: CUDA out of memory" in ran.err
    assert "checkpoint at step 3 is written" in ran.err
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert tunesmith("resume", str(RUN)).code == 0


def test_a_step_that_stalls_is_told_with_where_every_thread_stands(place, tiny_model, monkeypatch):
    from trl import SFTTrainer

    from tunesmith.train import guards

    monkeypatch.setattr(guards, "STALL_S", 0.2)
    monkeypatch.setattr(guards, "STALL_STEPS", 0.0)
    compute_loss, waited = SFTTrainer.compute_loss, threading.Event()

    def stalls(self, *args, **kwargs):
        if self.state.global_step == 2 and not waited.is_set():
            for _ in range(600):
                if (RUN / "stalled.txt").is_file() and "stalls" in (RUN / "stalled.txt").read_text():
                    break
                waited.wait(0.05)
            waited.set()
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "compute_loss", stalls)
    ran = tunesmith(*options(tiny_model, RUN))
    assert ran.code == 0, ran.err
    assert "no step ended for" in ran.err
    assert "stalls" in (RUN / "stalled.txt").read_text()


def test_a_loss_spikes_when_it_is_far_above_the_ones_before_and_losses_of_rewards_never_do():
    from tunesmith.train.guards import spikes

    quiet = [2.0 + i / 100 for i in range(20)]
    assert spikes(quiet, 6.5)
    assert not spikes(quiet, 5.9)
    assert not spikes([0.0, -0.1, 0.2] * 7, 6.0)


# Checkpoints that were altered


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory, tiny_model) -> Path:
    """A folder in which runs/one stopped at step 5 of 6, with checkpoints of steps 4 and 5."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        write_jsonl(folder / "chats.jsonl", chat_rows(12))
        twin = tunesmith(*options(tiny_model, Path("runs/twin")))
        assert twin.code == 0, twin.err
        child = start_child(folder, *options(tiny_model, RUN, steps=6))
        child.wait(90)
        # As if it had been stopped: its last checkpoint and its model are taken away.
        run = json.loads((RUN / "run.json").read_text()) | {"status": "stopped", "step": 4}
        (RUN / "run.json").write_text(json.dumps(run))
        shutil.rmtree(RUN / "model")
        assert [each.step for each in checkpoints.numbered(RUN / "checkpoints")] == [4, 6]
        (RUN / "checkpoints/checkpoint-6").rename(RUN / "checkpoints/kept-6")
        copy = RUN / "checkpoints/checkpoint-4"
        assert checkpoints.fault_of(checkpoints.Checkpoint(copy, 4)) is None
    return folder


@pytest.fixture
def stopped(stopped_run, tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(stopped_run, folder)
    (folder / RUN / "checkpoints/kept-6").rename(folder / RUN / "checkpoints/checkpoint-6")
    monkeypatch.chdir(folder)
    return folder


FILES = ["state.safetensors", "state.json", "trainer_state.json", "adapter_model.safetensors",
         "adapter_config.json", "manifest.json"]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_F25_a_file_that_is_missing_is_named_and_the_checkpoint_before_is_taken(stopped, name):
    (RUN / "checkpoints/checkpoint-6" / name).unlink()
    ran = tunesmith("resume", str(RUN))
    assert ran.code == 0, ran.err
    assert f"checkpoint-6 isn't whole ({name} is missing): set aside as quarantined-checkpoint-6" in ran.err
    assert "going on from step 4" in ran.err
    assert same_weights(RUN / "model", Path("runs/twin/model"))
    assert (RUN / "checkpoints/quarantined-checkpoint-6").is_dir()


@pytest.mark.parametrize("name", FILES[:-1])
def test_F26_one_flipped_bit_is_found_and_named(stopped, name):
    path = RUN / "checkpoints/checkpoint-6" / name
    content = bytearray(path.read_bytes())
    content[random.Random(name).randrange(len(content))] ^= 1
    path.write_bytes(content)
    found, aside = checkpoints.newest_whole(RUN / "checkpoints")
    assert found is not None
    assert found.step == 4
    assert [(each.step, each.fault) for each in aside] == [
        (6, f"{name} was altered: its hash isn't the manifest's")
    ]


def test_F25_where_no_checkpoint_is_whole_the_run_stops_and_says_what_each_lacks(stopped):
    for step in (4, 6):
        (RUN / f"checkpoints/checkpoint-{step}/state.json").unlink()
    ran = tunesmith("resume", str(RUN))
    assert ran.code == 2, ran.err
    assert "no checkpoint of this run is whole" in ran.err
    for step in (4, 6):
        assert f"checkpoint-{step} isn't whole (state.json is missing)" in ran.err
    assert not (RUN / "model").exists()


def test_F45_F06_no_pickle_and_no_token_is_in_a_checkpoint(place, tiny_model):
    canary = "hf_" + "CanaryOfATest" * 2 + "abcdefgh"
    ran = tunesmith(*options(tiny_model, RUN, "--set", f"trl.hub_token={canary}", steps=2))
    if ran.code == 0:
        for path in [path for path in RUN.rglob("*") if path.is_file()]:
            assert path.suffix in (".safetensors", ".json", ".jsonl", ".txt", ".md", ".jinja", ""), path
            assert canary.encode() not in path.read_bytes(), path
    else:  # refused is as good
        assert canary not in ran.err


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_F31_rotation_keeps_the_newest_two_and_the_best(tmp_path, limit):
    chosen = random.Random(limit)
    best = None
    for step in range(1, 30):
        folder = checkpoints.begin(tmp_path, step)
        (folder / "state.json").write_text("{}")
        checkpoints.commit(folder, step)
        if chosen.random() < 0.3:
            best = step
        checkpoints.rotate(tmp_path, limit, [] if best is None else [best])
        kept = [each.step for each in checkpoints.numbered(tmp_path)]
        assert set(kept) >= {step, max(1, step - 1)} | ({best} if best else set())
        assert len(kept) <= max(limit, 2) + 1
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


def test_F31_a_limit_that_is_raised_is_told(place, tiny_model):
    ran = tunesmith(*options(tiny_model, RUN, "--save-total-limit", "1"))
    assert ran.code == 0, ran.err
    assert "save_total_limit 1: 2 are kept" in ran.err
    assert [each.step for each in checkpoints.numbered(RUN / "checkpoints")] == [4, 6]


def test_F52_an_evaluation_that_is_no_number_is_told_and_never_the_best(place, tiny_model):
    held = chat_rows(14)[12:]
    held[0]["messages"][-1]["content"] = "~"
    write_jsonl(place / "held.jsonl", held)
    model = with_poisoned_token(tiny_model, place / "poisoned", "~")
    ran = tunesmith(
        *options(model, RUN, "--tuning", "lora", "--eval-dataset", "held.jsonl", "--eval-steps", "2"),
        "--load-best-model-at-end",
    )
    assert ran.code == 0, ran.err
    assert "this evaluation's loss is no finite number: it is never the best one" in ran.err
    state = json.loads((RUN / "checkpoints/checkpoint-6/trainer_state.json").read_text())
    assert state["best_model_checkpoint"] is None


# Stops


def test_F03_a_deadline_that_is_over_before_the_first_step_is_a_stop_like_any_other(place, tiny_model):
    ran = tunesmith(*options(tiny_model, RUN, "--max-minutes", "0.0001"))
    assert ran.code == 4, ran.err
    assert "the time for this run is over; there is no checkpoint yet" in ran.err
    assert record_of(RUN)["stopped_by"] == "deadline"
    assert not (RUN / "model").exists()


@pytest.mark.slow
def test_F03_an_evaluation_is_broken_off_and_done_when_the_run_goes_on(place, tiny_model):
    write_jsonl(place / "held.jsonl", chat_rows(400))
    more = [
        "--eval-dataset", "held.jsonl", "--eval-steps", "3", "--load-best-model-at-end", "--save-steps", "3",
        "--allow", "D303",
    ]  # fmt: skip
    child = start_child(place, *options(tiny_model, RUN, *more))
    wait_for(lambda: 3 in rows_of(RUN), child)
    child.send_signal(signal.SIGTERM)
    stopped = ended(child, place)
    assert stopped.code == 4, stopped.err
    assert "checkpoint at step 3 is written" in stopped.err
    assert 3 not in rows_of(RUN, "eval_loss"), "the signal came after the evaluation: it proves nothing"
    resumed = tunesmith("resume", str(RUN))
    assert resumed.code == 0, resumed.err
    twin = tunesmith(*options(tiny_model, Path("runs/twin"), *more))
    assert twin.code == 0, twin.err
    for key in ("loss", "eval_loss"):
        assert rows_of(RUN, key) == rows_of(Path("runs/twin"), key)
    assert same_weights(RUN / "model", Path("runs/twin/model"))


@pytest.mark.parametrize(
    "phase", ["reading the data", pytest.param("loading the model", marks=pytest.mark.slow)]
)
def test_F03_sigterm_before_the_first_step_ends_with_exit_4_and_no_model(place, tiny_model, phase):
    child = start_child(place, *options(tiny_model, RUN))
    wait_for(lambda: phase in (place / "stderr.txt").read_text(), child)
    child.send_signal(signal.SIGTERM)
    ran = ended(child, place)
    assert ran.code == 4, ran.err
    assert "Traceback" not in ran.err
    assert not (RUN / "model").exists()
    again = tunesmith(*options(tiny_model, RUN))
    assert again.code == 0, again.err


def test_a_run_ends_with_a_checkpoint_before_its_time_is_over_and_goes_on(tiny_model, tmp_path):
    write_data(tmp_path)
    arguments = list(cases(tiny_model, num_steps=100_000)["sft-lora"].arguments)
    zygote = Zygote()
    try:
        ran = zygote.run(tmp_path, "train", *arguments, "--run-dir", "runs/a", "--max-minutes", "0.2")
        assert ran.code == 4, ran.err
        assert "the time for this run is over; checkpoint at step" in ran.err
        assert ran.seconds < 12
        record = json.loads((tmp_path / "runs/a/run.json").read_text())
        assert record["stopped_by"] == "deadline"
        steps = outcome(tmp_path / "runs/a")["steps"]
        assert steps[-1]["step"] == record["step"] > 4
        more = ["--max-steps", str(record["step"] + 2), "--allow-drift", "max_steps"]
        done = zygote.run(tmp_path, "train", *arguments, "--run-dir", "runs/a", *more)
        assert done.code == 0, done.err
    finally:
        zygote.close()
