"""`tunesmith plan`, and the plan that `tunesmith train` makes: predictions, refusals, what came of them."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from method_data import options_for, write_method_data
from running import Ran, tunesmith

from tunesmith.plan.hardware import machines
from tunesmith.plan.learned import Like, learned_from

# Qwen2.5-7B and -0.5B, from their published config.json.
QWEN_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152_064,
    "max_position_embeddings": 131_072, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN_HALF_B = QWEN_7B | {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True,
}  # fmt: skip
KEYS = {"num_params", "num_trainable_params", "hardware", "fits", "memory_gib", "duration_s", "cost_usd",
        "timeout_s", "choice", "reasons"}  # fmt: skip
BY_HAND = ("--num-rows", "10000", "--mean-tokens", "400")
ON_80_GB = ("--hardware", "runpod-h100-sxm")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def model_folder(name: str, config: dict[str, Any]) -> Path:
    folder = Path(name)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def plan(*arguments: str | Path) -> Ran:
    return tunesmith("plan", *arguments, "--json")


def test_a_config_json_is_enough_and_torch_is_never_asked():
    folder = model_folder("qwen", QWEN_7B)
    code = (
        "import sys; from tunesmith.cli.app import run;"
        f"code = run(['plan', '--model', {str(folder)!r}, *{BY_HAND!r}, *{ON_80_GB!r}, '--json']);"
        "heavy = {'torch', 'transformers', 'datasets', 'trl', 'peft'} & set(sys.modules);"
        "sys.exit(code or (f'loaded {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() >= KEYS
    assert (found["num_params"], found["status"]) == (7_615_616_512, "done")
    for three in (found["memory_gib"], found["duration_s"], found["cost_usd"]):
        assert 0 < three["low"] < three["expected"] < three["high"]
    assert sum(found["memory_gib"]["items"].values()) == pytest.approx(found["memory_gib"]["expected"], 0.01)
    hourly = machines()["runpod-h100-sxm"].price_usd_per_hour
    assert hourly
    assert found["cost_usd"]["expected"] == pytest.approx(
        found["duration_s"]["expected"] / 3600 * hourly, 0.01
    )
    assert found["timeout_s"] > found["duration_s"]["high"]


def test_what_does_not_fit_is_refused_with_a_change_that_makes_it_fit():
    asked = ("--model", model_folder("qwen", QWEN_7B), *BY_HAND, *ON_80_GB, "--tuning")
    refused = plan(*asked, "full")
    assert (refused.code, refused.document["status"]) == (3, "refused")
    assert refused.document.keys() >= KEYS
    assert "does not fit" in refused.document["faults"][0]
    assert "--tuning lora" in refused.document["changes"]
    assert plan(*asked, "lora").code == 0


@pytest.mark.parametrize(("limit", "number"), [("max_cost_usd", 0.5), ("max_hours", 0.15)])
def test_a_budget_refuses_with_the_number_of_steps_that_it_allows(limit: str, number: float):
    asked = ("--model", model_folder("qwen", QWEN_7B), *BY_HAND, *ON_80_GB)
    given = ("--set", f"budget.{limit}={number}")
    refused = plan(*asked, *given)
    assert refused.code == 3
    assert f"budget.{limit}" in refused.document["faults"][0]
    flag, steps = refused.document["changes"][0].split()
    assert flag == "--max-steps"
    assert plan(*asked, *given, flag, steps).code == 0
    assert plan(*asked, *given, flag, str(int(int(steps) * 1.1))).code == 3
    assert plan(*asked, "--set", f"budget.{limit}=1000").code == 0


def test_a_memory_budget_is_kept_to_by_a_smaller_configuration():
    asked = ("--model", model_folder("qwen", QWEN_7B), *BY_HAND, *ON_80_GB)
    large, small = plan(*asked), plan(*asked, "--set", "budget.max_memory_gib=24")
    assert (large.code, small.code) == (0, 0)
    assert small.document["memory_gib"]["expected"] < 24 < large.document["memory_gib"]["expected"]
    assert large.document["duration_s"]["expected"] < small.document["duration_s"]["expected"]
    assert plan(*asked, "--set", "budget.max_memory_gib=10").code == 3


def test_all_hardware_is_compared_and_what_will_not_do_says_why():
    asked = ("--model", model_folder("qwen", QWEN_7B), *BY_HAND, "--hardware", "all")
    found = plan(*asked).document
    good = [each for each in found["machines"] if not each["faults"]]
    bad = [each for each in found["machines"] if each["faults"]]
    assert good
    assert {"t4-small", "cpu-basic"} <= {each["hardware"] for each in bad}
    assert all("does not fit" in each["faults"][0] for each in bad)
    costs = {each["hardware"]: each["cost_usd"]["expected"] for each in good if each["cost_usd"]}
    assert found["hardware"] == min(costs, key=lambda name: costs[name])
    shown = tunesmith("plan", *asked)
    marked = {word: line.split()[0] for line in shown.out.splitlines() for word in ("cheapest", "fastest")
              if line.rstrip().endswith(word)}  # fmt: skip
    assert marked["cheapest"] == found["hardware"]
    seconds = {each["hardware"]: each["duration_s"]["expected"] for each in good}
    assert marked["fastest"] == min(seconds, key=lambda name: seconds[name])
    assert "built-in table" in shown.err


def test_more_gpus_share_the_batch_and_take_less_time():
    asked = ("--model", model_folder("qwen", QWEN_7B), *BY_HAND, "--hardware")
    one, four = plan(*asked, "h200").document, plan(*asked, "h200x4").document
    assert (one["num_devices"], four["num_devices"]) == (1, 4)
    assert four["duration_s"]["expected"] < one["duration_s"]["expected"]
    assert four["choice"]["per_device_train_batch_size"] * four["choice"]["gradient_accumulation_steps"] == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--num-rows", "10"), "--num-rows and --mean-tokens go together"),
        ((*BY_HAND, "--probe"), "--probe does real steps on this machine"),
        ((*BY_HAND, "--hardware", "h1000"), "there is no hardware 'h1000'"),
        ((*BY_HAND, "--set", "budget.hours=2"), "there is no key 'budget.hours'"),
        ((*BY_HAND, "--set", "budget.max_hours=-1"), "budget.max_hours"),
        ((*BY_HAND, "--mean-tokens", "inf"), "inf is no number of tokens"),
        ((*BY_HAND, "--test-size", "50000"), "holds all of"),
        ((*BY_HAND, "--lora-target-modules", "*_proj"), "is no regular expression"),
        ((*BY_HAND, "--method", "distillation"), "needs a model to learn from"),
        ((), "dataset is missing"),
    ],
)
def test_odd_requests_are_refused_with_a_next_step(arguments: tuple[str, ...], said: str):
    refused = plan("--model", model_folder("qwen", QWEN_HALF_B), *arguments)
    assert refused.code == 2
    assert said in refused.document["error"]["message"]
    assert refused.document["error"]["fix"]


def test_a_sample_says_how_near_its_mean_is(tiny_model: Path, tmp_path: Path):
    draw = random.Random(1)
    rows = [{"messages": [{"role": "user", "content": "How long?"},
                          {"role": "assistant", "content": f"{n} " + "so " * draw.randint(1, 60)}]}
            for n in range(3000)]  # fmt: skip
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("--model", tiny_model, "--dataset", "many.jsonl", "--test-size", "0.1")
    whole, part = plan(*asked).document, plan(*asked, "--sample", "300").document
    assert part["num_steps"] == pytest.approx(whole["num_steps"], rel=0.02)
    assert (whole["mean_length_error"], 0.02 < part["mean_length_error"] < 0.08) == (0, True)
    # Wider than 95 %, so that another version's draws don't turn the test red.
    off = abs(part["mean_length"] / whole["mean_length"] - 1)
    assert off < 2 * part["mean_length_error"]
    assert part["duration_s"]["high"] / part["duration_s"]["expected"] > 1
    assert "by a sample" in tunesmith("plan", *asked, "--sample", "300").out
    assert plan(*asked, "--sample", "300").document["mean_length"] == part["mean_length"]
    (tmp_path / "bad.jsonl").write_text(json.dumps({"messages": None}) + "\n")
    bad = plan("--model", tiny_model, "--dataset", "bad.jsonl", "--sample", "30")
    assert bad.code == 2
    assert "bad.jsonl" in bad.document["error"]["where"]


def test_a_price_of_ones_own_makes_hours_into_dollars():
    asked = ("--model", model_folder("qwen", QWEN_HALF_B), *BY_HAND, "--hardware", "rtx-4090")
    found = plan(*asked, "--set", "budget.usd_per_hour=0.5").document
    assert found["cost_usd"]["expected"] == pytest.approx(found["duration_s"]["expected"] / 7200, 0.01)


def test_a_plan_of_real_rows_is_what_the_training_takes(tiny_model: Path, tmp_path: Path):
    write_method_data(tmp_path)
    options = options_for("sft", tiny_model)
    planned = plan("--method", "sft", *[each for each in options if each != "sft"]).document
    dry = tunesmith(
        "train", "sft", *[each for each in options if each != "sft"], "--dry-run", "--json"
    ).document
    assert planned["num_params"] == dry["model"]["num_params"]
    assert planned["num_trainable_params"] == dry["model"]["num_trainable_params"]
    assert planned["num_steps"] == dry["num_steps"]
    assert planned["choice"]["per_device_train_batch_size"] == dry["choice"]["per_device_train_batch_size"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("given", ["budget.max_hours=0.0001", "budget.max_memory_gib=0.1"])
def test_training_over_budget_is_refused_before_anything_is_written(
    tiny_model: Path, tmp_path: Path, given: str
):
    write_method_data(tmp_path)
    before = set(tmp_path.iterdir())
    refused = tunesmith("train", *options_for("sft", tiny_model), "--set", given, "--json")
    assert (refused.code, refused.document["status"]) == (3, "refused")
    assert given.partition("=")[0] in refused.document["error"]["message"]
    assert set(tmp_path.iterdir()) == before


def test_a_run_keeps_what_it_took_beside_its_plan_and_the_next_plan_learns_from_it(
    tiny_model: Path, tmp_path: Path
):
    write_method_data(tmp_path)
    options = [*options_for("sft", tiny_model), "--max-steps", "12"]
    before = plan(*options[1:]).document
    done = tunesmith("train", *options, "--json")
    assert done.code == 0, done.err
    record = json.loads((Path(done.document["run"]) / "run.json").read_text())
    actual = record["actual"]
    assert 0 < actual["step_s"] < actual["duration_s"]
    assert 0 < actual["peak_memory_gib"] < 64
    shown = tunesmith("show", done.document["run"]).out
    assert "planned" in shown
    after = plan(*options[1:]).document
    factor = actual["step_s"] / record["plan"]["step_s"]["expected"]
    steps = [each["duration_s"]["items"]["steps"] for each in (before, after)]
    assert steps[1] / steps[0] == pytest.approx(factor, rel=0.05)
    assert any("an earlier run here" in reason for reason in after["reasons"])


def test_a_run_too_short_to_tell_teaches_nothing(tiny_model: Path, tmp_path: Path):
    write_method_data(tmp_path)
    options = [*options_for("sft", tiny_model), "--max-steps", "1"]
    before = plan(*options[1:]).document
    assert tunesmith("train", *options).code == 0
    assert plan(*options[1:]).document["duration_s"] == before["duration_s"]


def test_a_reward_model_has_the_numbers_that_its_training_has(tiny_model: Path, tmp_path: Path):
    write_method_data(tmp_path)
    options = options_for("reward", tiny_model)
    planned = plan("--method", "reward", *options[1:]).document
    dry = tunesmith("train", *options, "--dry-run", "--json").document
    assert planned["num_params"] == dry["model"]["num_params"]
    assert planned["num_trainable_params"] == dry["model"]["num_trainable_params"]


@pytest.mark.parametrize(
    "given",
    [
        ("--set", "budget.max_cost_usd=50"),
        ("--precision", "fp16"),
        ("--set", "trl.per_device_train_batch_size=8"),
        ("--tuning", "qlora"),
    ],
)
def test_a_machine_that_cannot_do_it_does_not_end_the_comparison(given: tuple[str, ...]):
    asked = ("--model", model_folder("qwen", QWEN_HALF_B), *BY_HAND, "--hardware", "all")
    found = plan(*asked, *given)
    assert found.code == 0, found.document
    reasons = [fault for each in found.document["machines"] for fault in each["faults"]]
    assert reasons + list(found.document["other_machines"].values())
    assert not found.document["hardware"].startswith("cpu")
    shown = tunesmith("plan", *asked, *given).out
    assert all(name in shown for name in found.document["other_machines"])


def test_prices_of_the_table_stand_where_ones_own_is_given_for_the_others():
    asked = ("--model", model_folder("qwen", QWEN_HALF_B), *BY_HAND, "--hardware", "all")
    plain, priced = (
        plan(*asked, *more).document["machines"] for more in ((), ("--set", "budget.usd_per_hour=2.5"))
    )
    before = {each["hardware"]: each["price_usd_per_hour"] for each in plain}
    after = {each["hardware"]: each["price_usd_per_hour"] for each in priced}
    assert {name: price or 2.5 for name, price in before.items()} == after
    assert None in before.values()


def test_both_texts_of_a_pair_count_where_rows_are_planned_by_hand(tmp_path: Path):
    asked = ("--model", model_folder("qwen", QWEN_HALF_B), "--method", "dpo", "--hardware", "h200")
    short, long = (
        plan(*asked, "--num-rows", "1000", "--mean-tokens", tokens).document for tokens in ("1024", "1600")
    )
    assert long["duration_s"]["items"]["steps"] > 1.3 * short["duration_s"]["items"]["steps"]


def test_shorter_answers_are_offered_where_answers_take_the_memory():
    asked = (
        "--model",
        model_folder("qwen", QWEN_HALF_B),
        "--method",
        "grpo",
        "--rewards",
        "format",
        *ON_80_GB,
    )
    asked += ("--num-rows", "1000", "--mean-tokens", "200")
    long = ("--max-completion-length", "8192", "--set", "budget.max_memory_gib=6")
    found = plan(*asked, *long).document
    assert "--max-completion-length" in "".join(found["changes"])
    for change in found["changes"]:
        assert plan(*asked, *long, *change.split()).code == 0, change


def test_auto_tunes_every_weight_where_that_fits_and_an_adapter_where_it_does_not():
    small, large = model_folder("half", QWEN_HALF_B), model_folder("qwen", QWEN_7B)
    asked = (*BY_HAND, "--tuning", "auto")
    assert plan("--model", small, *asked, *ON_80_GB).document["tuning"] == "full"
    assert plan("--model", large, *asked, *ON_80_GB).document["tuning"] == "lora"
    tight = ("--set", "budget.max_memory_gib=8")
    assert plan("--model", small, *asked, *ON_80_GB, *tight).document["tuning"] == "lora"
    machines = plan("--model", large, *asked, "--hardware", "all").document["machines"]
    assert {each["tuning"] for each in machines if not each["faults"]} == {"full", "lora"}


def test_training_with_auto_has_the_learning_rate_of_what_it_settles_on(tiny_model: Path, tmp_path: Path):
    write_method_data(tmp_path)
    options = ["sft", "--model", str(tiny_model), "--dataset", "chats.jsonl", "--tuning", "auto", "--dry-run"]
    full = tunesmith("train", *options, "--json")
    assert "full fine-tuning fits" in full.err
    assert (full.document["config"]["tuning"], full.document["config"]["learning_rate"]) == ("full", 2e-5)
    # As many bytes as the process has itself: nothing fits, and of the two the adapter is what is refused.
    neither = tunesmith("train", *options, "--set", "budget.max_memory_gib=0.1", "--json")
    assert neither.code == 3
    assert "tuning auto: an adapter; for full fine-tuning it does not fit" in neither.err
    own = tunesmith("train", *options, "--learning-rate", "0.5", "--json").document
    assert own["config"]["learning_rate"] == 0.5


def test_an_optimizer_that_keeps_less_needs_less():
    asked = ("--model", model_folder("qwen", QWEN_7B), "--tuning", "full", *BY_HAND, *ON_80_GB)
    plain, less = plan(*asked).document, plan(*asked, "--set", "trl.optim=adafactor").document
    assert plain["memory_gib"]["items"]["optimizer"] == pytest.approx(8 * 7.6e9 / 2**30, rel=0.01)
    assert "optimizer" not in less["memory_gib"]["items"]
    own = plan(*asked, "--set", "trl.optim=galore_adamw")
    assert own.code == 0
    assert any("as without trl.optim" in reason for reason in own.document["reasons"])


def test_only_runs_like_it_teach_and_the_median_of_them():
    def record(measured: float, device: str = "A", method: str = "sft", step: int = 50, size: float = 1e9):
        return {
            "machine": {"device_name": device, "num_devices": 1},
            "method": method,
            "config": {"tuning": "lora"},
            "model": {"num_params": size},
            "step": step,
            "plan": {"step_s": {"expected": 1.0}},
            "actual": {"step_s": measured},
        }

    like = Like("A", 1, "sft", "lora", 10**9)
    others = [
        record(9.0, device="B"),
        record(9.0, method="dpo"),
        record(9.0, step=2),
        record(9.0, size=1e7),
        {},
    ]
    learned = learned_from([record(1.2), record(1.4), record(30.0), *others], like)
    assert learned
    assert (learned.factor, learned.num_runs) == (pytest.approx(1.4), 3)
    assert learned_from(others, like) is None
    single = learned_from([record(1.2)], like)
    assert single
    assert single.error >= 0.1  # one run doesn't say how far runs lie apart


def test_a_probe_does_real_steps_and_leaves_nothing_behind(tiny_model: Path, tmp_path: Path):
    write_method_data(tmp_path)
    options = options_for("sft", tiny_model)
    before = set(tmp_path.iterdir())
    probed = plan(*options[1:], "--probe")
    assert probed.code == 0, probed.err
    assert probed.document["duration_s"]["items"]["steps"] > 0
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {"trackio"}


def test_a_probe_needs_no_evaluation_and_no_leave_of_the_estimate(tiny_model: Path, tmp_path: Path):
    write_method_data(tmp_path)
    options = options_for("sft", tiny_model)[1:]
    probed = plan(*options, "--test-size", "2", "--probe", "--set", "budget.max_hours=0.0001")
    assert probed.code == 3
    assert "budget.max_hours" in probed.document["faults"][0]
    assert probed.document["duration_s"]["items"]["steps"] > 0
    several = plan(*options, "--num-processes", "2", "--device", "cpu", "--probe")
    assert (several.code, several.document["error"]["fix"]) == (
        2,
        "add --num-processes 1, or leave --probe out",
    )


def test_the_script_takes_its_ancestors_flags():
    sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
    try:
        import estimate_cost
    finally:
        sys.path.pop(0)
    folder = str(model_folder("qwen", QWEN_HALF_B))
    asked = ["--model", folder, "--dataset-size", "1000", "--epochs=2", *ON_80_GB]
    assert estimate_cost.main(asked) == 0
    assert estimate_cost.main([*asked, "--tuning", "full", "--set", "budget.max_memory_gib=4"]) == 3
    assert estimate_cost.main([]) == 2
