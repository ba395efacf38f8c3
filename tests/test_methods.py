"""Every method from data to a saved model: one command line, one run folder, one way to go on."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
from method_data import options_for, write_method_data
from running import Ran, record_of, rows_of, same_weights, tunesmith, weights_of

from tunesmith.config.methods import METHODS
from tunesmith.train.trainers import TRAINERS

NUM_ROWS = 24
# A method for each trainer.
ONE_EACH = {spec.trainer: name for name, spec in reversed(METHODS.items()) if name != "cpt"}
GROUPED = ("grpo", "rloo")
# What each trainer logs of an evaluation, beside its loss.
EVALUATED = {
    "dpo": "eval_rewards/accuracies",
    "kto": "eval_rewards/margins",
    "orpo": "eval_rewards/accuracies",
    "cpo": "eval_rewards/accuracies",
    "reward": "eval_accuracy",
    "grpo": "eval_reward",
    "rloo": "eval_reward",
}
each_method = pytest.mark.parametrize("method", METHODS)
each_trainer = pytest.mark.parametrize("trainer", TRAINERS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Data for every method, and a teacher that doesn't say what the student says."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("place")
    write_method_data(folder, NUM_ROWS)
    teacher = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        for weight in teacher.parameters():
            weight.mul_(1.5)
    teacher.save_pretrained(folder / "teacher")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder / "teacher")
    return folder


@pytest.fixture(autouse=True)
def _in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def options(method: str, model: Path) -> list[str]:
    given = options_for(method, model)
    return [*given, "--teacher-model", "teacher"] if method == "distillation" else given


@pytest.fixture(scope="module")
def trained(place: Path, tiny_model: Path):
    """`trained(method)` trains with an evaluation into runs/METHOD, once, and gives what was said."""
    done: dict[str, Ran] = {}

    def run(method: str) -> Ran:
        if method not in done:
            done[method] = tunesmith(
                "train", *options(method, tiny_model), "--test-size", "4", "--eval-steps", "2",
                "--run-dir", f"runs/{method}", "--json",
            )  # fmt: skip
        assert done[method].code == 0, done[method].err
        return done[method]

    return run


def flags_of(method: str, model: Path) -> dict[str, Any]:
    given = options(method, model)[1:]
    flags = {name[2:].replace("-", "_"): value for name, value in zip(given[::2], given[1::2], strict=True)}
    flags.pop("set")
    return {"method": method, **flags}


def setup_of(arguments: dict[str, Any], assignments: tuple[str, ...] = ()):
    from tunesmith.config.loading import load_config
    from tunesmith.train.setup import set_up

    loaded = load_config(flags=arguments, assignments=["trl.report_to=none", *assignments], environ={})
    return set_up(loaded.config, lambda event: None)


@each_method
def test_every_method_trains_and_says_the_same_things_of_its_run(trained, method: str):
    document = trained(method).document
    promised = {"schema", "command", "status", "run", "step", "num_steps", "metrics", "resumed_from"}
    assert promised <= document.keys()
    assert (document["command"], document["status"], document["run"]) == ("train", "done", f"runs/{method}")
    assert (document["step"], document["num_steps"], document["resumed_from"]) == (3, 3, None)
    record = record_of(Path("runs") / method)
    assert (record["status"], record["method"], record["step"]) == ("done", method, 3)
    assert record["config"]["method"] == method
    assert record["metrics"] == document["metrics"]
    assert record["data"]["num_rows"] + record["data"]["num_eval_rows"] == NUM_ROWS
    assert record["data"]["num_eval_rows"] == 4
    assert record["choice"]["per_device_train_batch_size"] * record["choice"][
        "gradient_accumulation_steps"
    ] == 4  # fmt: skip
    assert record["provenance"]["method"]
    assert record["provenance"]["num_train_epochs"].startswith("default (")
    files = {".lock", "run.json", "metrics.jsonl", "log.txt", "checkpoints", "model"}
    files |= {"completions.jsonl"} if METHODS[method].trainer in GROUPED else set()
    assert {each.name for each in Path("runs", method).iterdir()} == files


@each_method
def test_every_method_logs_its_loss_and_the_metrics_of_its_headline(trained, method: str):
    trained(method)
    assert list(rows_of(Path("runs") / method)) == [1, 2, 3]
    for name, _ in TRAINERS[METHODS[method].trainer].headline:
        # A step without new answers has no reward; a batch of good answers only has no margin.
        values = rows_of(Path("runs") / method, name)
        assert values
        assert all(math.isfinite(float(value)) for value in values.values()), name
    events = [json.loads(line) for line in trained(method).err.splitlines()]
    told = [each for each in events if each["event"] == "progress"]
    assert [each["step"] for each in told] == [1, 2, 3]
    words = {words for _, words in TRAINERS[METHODS[method].trainer].headline}
    assert set().union(*(each["metrics"] for each in told)) == words


@each_method
def test_every_method_evaluates_what_it_held_out(trained, method: str):
    trained(method)
    run, trainer = Path("runs") / method, METHODS[method].trainer
    assert math.isfinite(float(rows_of(run, "eval_loss")[2]))
    if trainer in EVALUATED:
        assert math.isfinite(float(rows_of(run, EVALUATED[trainer])[2]))


@each_method
def test_every_method_saves_an_adapter_that_plain_peft_loads(trained, tiny_model: Path, method: str):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    trained(method)
    folder = Path("runs") / method / "model"
    moved = sum(w.abs().sum().item() for name, w in weights_of(folder).items() if "lora_B" in name)
    # dapo learns nothing of answers that are cut, and six tokens cut all of them.
    assert (moved > 0) == (method != "dapo")
    if method == "reward":
        base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    else:
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = AutoTokenizer.from_pretrained(folder)("The river of Oslo", return_tensors="pt")
    with torch.inference_mode():
        before = base(**ids).logits.clone()
        after = PeftModel.from_pretrained(base, folder)(**ids).logits
    assert torch.isfinite(after).all()
    assert torch.equal(before, after) == (method == "dapo")


def test_the_reward_model_gives_the_same_number_once_it_is_loaded_again(place: Path, tiny_model: Path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    from tunesmith.runs.folder import RunFolder
    from tunesmith.train.training import train

    flags = {"method": "reward", "model": str(tiny_model), "dataset": "pairs.jsonl", "max_steps": 2,
             "learning_rate": 0.02, "precision": "fp32"}  # fmt: skip
    ids = torch.tensor([[5, 9, 200, 31, 7]])
    for tuning in ("lora", "full"):
        setup = setup_of(flags | {"tuning": tuning})
        run = RunFolder.create(Path("runs") / f"reward-{tuning}", setup.record())
        trained_model = train(setup, run, lambda event: None).model.eval()
        if tuning == "lora":
            # The head is new, so the adapter brings it.
            base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
            saved = PeftModel.from_pretrained(base, run.model_path)
        else:
            saved = AutoModelForSequenceClassification.from_pretrained(run.model_path)
        weights, expected = saved.state_dict(), trained_model.state_dict()
        assert weights.keys() == expected.keys()
        # What a base brings under the adapter's head is new in each, and not used.
        used = [name for name in expected if "original_module" not in name]
        assert all(torch.equal(weights[name], expected[name]) for name in used), tuning
        with torch.inference_mode():
            score = saved.eval()(input_ids=ids).logits
            # The head's product of one row: a kernel's order of sums depends on where the weights lie.
            assert score.shape == (1, 1)
            assert score.item() == pytest.approx(trained_model(input_ids=ids).logits.item(), abs=1e-7)


def test_the_same_seed_gives_the_same_reward_model_and_another_seed_another_one(
    place: Path, tiny_model: Path
):
    import torch

    for before, (name, seed) in enumerate((("one", "42"), ("twin", "42"), ("other", "7"))):
        torch.manual_seed(before)  # whatever this process drew before makes no difference
        ran = tunesmith(
            "train", *options("reward", tiny_model), "--seed", seed, "--run-dir", f"runs/seed-{name}"
        )
        assert ran.code == 0, ran.err
    losses = rows_of(Path("runs/seed-one"))
    assert rows_of(Path("runs/seed-twin")) == losses
    assert same_weights(Path("runs/seed-twin/model"), Path("runs/seed-one/model"))
    assert rows_of(Path("runs/seed-other")) != losses


@each_method
def test_show_tells_status_and_settings_of_every_method(trained, method: str):
    trained(method)
    shown = tunesmith("show", f"runs/{method}")
    assert shown.code == 0, shown.err
    assert "done" in shown.out
    assert "3 of 3" in shown.out
    document = tunesmith("show", f"runs/{method}", "--json").document
    assert document["run_status"] == "done"
    assert document["record"] == record_of(Path("runs") / method)


@each_method
def test_a_dry_run_of_every_method_writes_nothing(place: Path, tiny_model: Path, method: str):
    before = sorted(place.rglob("*"))
    ran = tunesmith("train", *options(method, tiny_model), "--dry-run", "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    assert document["dry_run"] is True
    assert document["num_steps"] == 3
    assert document["data"]["num_rows"] == NUM_ROWS
    for name, default in METHODS[method].trl.items():
        assert document["config"]["trl"][name] == default.value
        assert default.source in document["provenance"][f"trl.{name}"]
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("method", [name for name, spec in METHODS.items() if spec.trl])
def test_a_variant_hands_its_settings_to_trl_and_a_user_s_own_win(trained, tiny_model: Path, method: str):

    trained(method)
    path = Path("runs") / method / "checkpoints" / "checkpoint-3" / "training_args.json"
    arguments = json.loads(path.read_text())
    for name, default in METHODS[method].trl.items():
        wanted = (
            [default.value] if name == "loss_type" and METHODS[method].trainer == "dpo" else default.value
        )
        assert arguments[name] == wanted, name
    name, own = {
        "ipo": ("loss_type", "hinge"), "simpo": ("simpo_gamma", 0.5), "dr_grpo": ("scale_rewards", "batch"),
        "dapo": ("epsilon_high", 0.3), "gspo": ("epsilon", 0.1),
    }[method]  # fmt: skip
    ran = tunesmith(
        "train", *options(method, tiny_model), "--dry-run", "--json", "--set", f"trl.{name}={own}"
    )
    document = ran.document
    assert document["config"]["trl"][name] == own
    assert document["provenance"][f"trl.{name}"] == f"flag --set trl.{name}"


@each_trainer
def test_a_run_stopped_by_a_signal_is_resumed_and_ends_as_one_never_stopped(
    place: Path, tiny_model: Path, trainer: str
):
    from tunesmith.errors import RunStopped
    from tunesmith.runs.folder import RunFolder
    from tunesmith.train.events import Progress
    from tunesmith.train.training import train

    flags = flags_of(ONE_EACH[trainer], tiny_model) | {"max_steps": 6, "lora_dropout": 0.1}
    setup = setup_of(flags)
    run = RunFolder.create(Path("runs") / f"{trainer}-stopped", setup.record())

    def stops(event: Any) -> None:
        if isinstance(event, Progress) and event.step == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(RunStopped, match="SIGTERM received; checkpoint at step 3 is written"):
        train(setup, run, stops)
    assert record_of(run.path)["stopped_by"] == "SIGTERM"
    assert not run.model_path.exists()
    resumed = tunesmith("resume", run.path, "--json")
    assert resumed.code == 0, resumed.err
    assert (resumed.document["resumed_from"], resumed.document["step"]) == (3, 6)
    assert record_of(run.path)["status"] == "done"
    twin = RunFolder.create(Path("runs") / f"{trainer}-twin", setup_of(flags).record())
    train(setup_of(flags), twin, lambda event: None)
    assert rows_of(run.path) == rows_of(twin.path)
    assert same_weights(run.model_path, twin.model_path)


@pytest.mark.parametrize(("answers", "group", "at_a_time"), [(8, 2, 8), (6, 2, 6), (4, 4, 4)])
def test_an_evaluation_answers_as_many_prompts_at_a_time_as_a_step(
    place: Path, tiny_model: Path, answers: int, group: int, at_a_time: int
):
    from tunesmith.train.trl_settings import trl_arguments

    sizes = {"global_batch_size": answers, "num_generations": group}
    setup = setup_of(flags_of("grpo", tiny_model) | sizes)
    arguments = trl_arguments(setup.method, setup.config, setup.choice, setup.data.report, None)
    assert arguments["per_device_eval_batch_size"] == at_a_time


def test_grpo_ends_with_the_checkpoint_of_the_best_reward_not_of_the_lowest_loss(
    place: Path, tiny_model: Path
):
    ran = tunesmith(
        "train", *options("grpo", tiny_model), "--test-size", "4", "--eval-steps", "1", "--max-steps", "4",
        "--learning-rate", "0.1", "--load-best-model-at-end", "--save-total-limit", "4",
        "--run-dir", "runs/best",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    rewards = rows_of(Path("runs/best"), "eval_reward")
    best = max(rewards, key=rewards.__getitem__)
    state = json.loads(Path("runs/best/checkpoints/checkpoint-4/trainer_state.json").read_text())
    assert state["best_metric"] == rewards[best]
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{best}")
    assert same_weights(Path(f"runs/best/checkpoints/checkpoint-{best}"), Path("runs/best/model"))


@pytest.mark.parametrize("method", ["dpo", "kto", "orpo", "grpo", "rloo", "distillation"])
def test_full_tuning_moves_every_weight(place: Path, tiny_model: Path, method: str):
    import torch

    run = Path("runs") / f"{method}-full"
    ran = tunesmith("train", *options(method, tiny_model), "--tuning", "full", "--run-dir", run)
    assert ran.code == 0, ran.err
    before, after = weights_of(tiny_model), weights_of(run / "model")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_dora_learns_the_size_of_columns_too(place: Path, tiny_model: Path, method: str):
    run = Path("runs") / f"{method}-dora"
    ran = tunesmith("train", *options(method, tiny_model), "--use-dora", "--run-dir", run)
    assert ran.code == 0, ran.err
    assert any("lora_magnitude_vector" in name for name in weights_of(run / "model"))
    assert "LoRA with DoRA" in ran.err


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo", "reward"])
def test_qlora_without_a_cuda_device_is_refused(place: Path, tiny_model: Path, method: str):
    ran = tunesmith(
        "train", *options(method, tiny_model), "--tuning", "qlora", "--device", "cpu", "--run-dir", "runs/q"
    )
    assert ran.code == 2
    assert "qlora keeps the base in 4 bit on a CUDA device, and this run is on cpu" in ran.err
    assert "use --tuning lora" in ran.err
    assert not Path("runs/q").exists()
