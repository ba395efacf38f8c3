"""What each trainer does to the weights, and to what they were meant to learn: through the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from losses import write_other_model
from method_data import options_for, write_method_data
from running import rows_of, tunesmith
from tiny import write_jsonl

from tunesmith.config.methods import METHODS
from tunesmith.train import training

TRAINERS = ("sft", "dpo", "kto", "orpo", "cpo", "reward", "grpo", "rloo", "distillation")


class Built:
    """The trainer of the last run in this process, and its weights as they were before the first step."""

    trainer: Any = None
    before: dict[str, Any]

    def model(self) -> dict[str, Any]:
        return weights(self.trainer.model)


def weights(model: Any) -> dict[str, Any]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.fixture(scope="module")
def teacher(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_other_model(tiny_model, tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def train(tiny_model: Path, teacher: Path) -> Callable[..., None]:
    """Runs a method for a few steps; the last value of an option counts."""

    def run(method: str, *options: str | Path) -> None:
        taught = ["--teacher-model", teacher] if method == "distillation" else []
        ran = tunesmith("train", *options_for(method, tiny_model), *taught, *options)
        assert ran.code == 0, ran.err

    return run


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Built:
    kept, build = Built(), training._build_trainer

    def keep(*args: Any) -> Any:
        kept.trainer = build(*args)
        kept.before = kept.model()
        return kept.trainer

    monkeypatch.setattr(training, "_build_trainer", keep)
    return kept


@pytest.fixture(autouse=True)
def _in_a_folder_with_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_method_data(tmp_path)
    monkeypatch.chdir(tmp_path)


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    import torch

    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("method", TRAINERS)
def test_an_adapter_is_trained_whole_and_the_base_stays(train, built: Built, method: str, dora: bool):
    train(method, *(["--use-dora"] if dora else []))
    after = built.model()
    own = {name for name in after if ".lora_" in name or ".modules_to_save." in name}
    kinds = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if dora else set())
    assert {name.split(".lora_")[1].split(".")[0] for name in own if ".lora_" in name} == {
        kind.removeprefix("lora_") for kind in kinds
    }
    # Seven linear layers in each of two blocks; a reward model's head is trained beside the adapter.
    assert len(own) == 14 * len(kinds) + (method == "reward")
    assert changed(built.before, after) == own


@pytest.mark.parametrize("method", TRAINERS)
def test_full_tuning_moves_every_weight(train, built: Built, method: str):
    train(method, "--tuning", "full")
    assert changed(built.before, built.model()) == set(built.before)


@pytest.mark.parametrize(
    ("method", "held", "settings"),
    [
        ("distillation", "teacher_model", []),
        ("dpo", "ref_model", ["--set", "trl.precompute_ref_log_probs=false"]),
        ("kto", "ref_model", ["--set", "trl.precompute_ref_log_probs=false"]),
        ("grpo", "ref_model", ["--set", "trl.beta=0.1"]),
        ("rloo", "ref_model", []),
    ],
    ids=["distillation", "dpo", "kto", "grpo", "rloo"],
)
def test_teacher_and_reference_stay_as_they_are(
    train, built: Built, tiny_model: Path, teacher: Path, method: str, held: str, settings: list[str]
):
    from transformers import AutoModelForCausalLM

    train(method, "--tuning", "full", *settings)
    other = weights(getattr(built.trainer, held))
    origin = teacher if held == "teacher_model" else tiny_model
    assert not changed(weights(AutoModelForCausalLM.from_pretrained(origin)), other)
    assert changed(other, built.model()) == set(other)


THINGS, PLACES = (
    ("river", "bridge", "clock", "garden", "engine", "letter", "window"),
    ("Oslo", "Lima", "Porto"),
)
TOPICS = [f"{thing} of {place}" for thing in THINGS for place in (*PLACES, "Kyoto")]
OLD, LOST = "It is {n} years old, and proud of it.", "In Oslo nobody remembers the steps."
VOWELS = '''
def vowels(completions, **kwargs):
    """The share of vowels among an answer's letters."""
    texts = [each[-1]["content"].lower() for each in completions]
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in texts]
'''


def write_preferences(right: bool) -> None:
    """For each method a file to train on, in the right order or the wrong one, and one to be judged by.

    What is right stands in the answer's form, so that it carries over to the held-out questions.
    """
    asked = [{"role": "user", "content": f"How old is the {topic}?"} for topic in TOPICS]
    answers = [(OLD.format(n=3 + 5 * i), LOST) for i in range(len(asked))]
    said = [[{"role": "assistant", "content": text} for text in pair] for pair in answers]
    rows = list(zip(asked, said, strict=True))
    for name, part, order in (("train", rows[:20], 1 if right else -1), ("held_out", rows[20:], 1)):
        ordered = [(question, pair[::order]) for question, pair in part]
        write_jsonl(
            Path(f"pairs_{name}.jsonl"),
            [{"prompt": [q], "chosen": [good], "rejected": [bad]} for q, (good, bad) in ordered],
        )
        write_jsonl(
            Path(f"labelled_{name}.jsonl"),
            [
                {"prompt": [q], "completion": [answer], "label": label}
                for q, pair in ordered
                for answer, label in zip(pair, (True, False), strict=True)
            ],
        )
        write_jsonl(Path(f"chats_{name}.jsonl"), [{"messages": [q, good]} for q, (good, _) in ordered])
        write_jsonl(Path(f"prompts_{name}.jsonl"), [{"prompt": [q]} for q, _ in ordered])
    Path("rewards.py").write_text(VOWELS, encoding="utf-8")
    Path("run.yaml").write_text(
        f"rewards: [{{function: rewards.py:vowels, weight: {1 if right else -1}}}]\n", encoding="utf-8"
    )


RATE = {"grpo": "0.01", "rloo": "0.01"}
STEPS = 30


def held_out(model: Path, method: str, *options: str | Path) -> Callable[[str], tuple[float, float]]:
    """Trains; gives a held-out metric before and after."""
    kinds = {"preference": "pairs", "unpaired": "labelled", "conversation": "chats", "prompts": "prompts"}
    kind, path = kinds[METHODS[method].kind], Path(f"runs/{len(list(Path().glob('runs/*')))}")
    if method in ("grpo", "rloo"):
        options += ("run.yaml", "--num-generations", "8", "--global-batch-size", "16")
    if method == "rloo":
        # Its KL term is on by default, and weighs as much as what this reward can give.
        options += ("--set", "trl.beta=0.0")
    if kind == "prompts":
        options += ("--max-completion-length", "6")
    ran = tunesmith(
        "train", method, "--model", model, "--run-dir", path, "--tuning", "full", "--seed", "7",
        "--dataset", f"{kind}_train.jsonl", "--eval-dataset", f"{kind}_held_out.jsonl",
        "--max-steps", str(STEPS), "--eval-steps", str(STEPS), "--set", "trl.eval_on_start=true",
        "--learning-rate", RATE.get(method, "0.003"), "--warmup-steps", "0", *options,
    )  # fmt: skip
    assert ran.code == 0, ran.err

    def metric(name: str) -> tuple[float, float]:
        found = rows_of(path, f"eval_{name}")
        return found[0], found[STEPS]

    return metric


def in_both_orders(model: Path, method: str) -> list[Callable[[str], tuple[float, float]]]:
    trained = []
    for right in (True, False):
        write_preferences(right)
        trained.append(held_out(model, method))
    return trained


# The least change, and the measured one in the right and the wrong order; with three other seeds it was never
# less than twice the least (2026-11-24).
@pytest.mark.parametrize(
    ("method", "metric", "least", "accuracy"),
    [
        ("dpo", "rewards/margins", 1.0, "rewards/accuracies"),  # +3.6, -3.7
        ("kto", "rewards/margins", 1.0, None),  # +3.6, -3.5
        ("orpo", "rewards/margins", 0.08, "rewards/accuracies"),  # +0.23, -0.27
        ("cpo", "rewards/margins", 0.8, "rewards/accuracies"),  # +4.3, -2.4
        ("reward", "margin", 1.0, "accuracy"),  # +3.6, -3.6
        ("grpo", "rewards/vowels/mean", 0.06, None),  # +0.38, -0.19
        ("rloo", "rewards/vowels/mean", 0.06, None),  # +0.25, -0.19
    ],
)
def test_the_right_order_raises_a_held_out_metric_and_the_wrong_order_lowers_it(
    tiny_model: Path, method: str, metric: str, least: float, accuracy: str | None
):
    right, wrong = in_both_orders(tiny_model, method)
    start, end = right(metric)
    assert end > start + least
    start, end = wrong(metric)
    assert end < start - least
    if accuracy:
        assert (right(accuracy)[1], wrong(accuracy)[1]) == (1.0, 0.0)


def test_right_answers_lower_the_loss_on_others_of_their_kind_and_wrong_answers_far_less(tiny_model: Path):
    right, wrong = in_both_orders(tiny_model, "sft")
    # Measured: from 6.2 to 4.0, and to 5.9.
    assert right("loss")[1] < right("loss")[0] - 1.5
    assert wrong("loss")[1] > right("loss")[1] + 1.0


def test_a_student_comes_nearer_to_its_teacher_on_prompts_it_did_not_practise(
    tiny_model: Path, teacher: Path
):
    write_preferences(right=True)
    start, end = held_out(tiny_model, "distillation", "--teacher-model", teacher)("loss")
    # Measured: from 0.166 to 0.073.
    assert end < 0.75 * start
