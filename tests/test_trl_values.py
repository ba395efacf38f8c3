"""Values of the `trl:` table: a wrong one is named before anything is loaded, a right one never refused."""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from method_data import options_for, write_method_data
from running import Ran, tunesmith

from tunesmith.config.methods import METHODS
from tunesmith.config.run_config import RunConfig
from tunesmith.errors import ConfigError, MissingPackageError
from tunesmith.train.trainers import TRAINERS
from tunesmith.train.trl_dispatch import compared_texts
from tunesmith.train.trl_settings import check_trl_packages
from tunesmith.train.trl_values import check_trl_values

DPO_LOSSES = "sigmoid, hinge, ipo"


def check(trainer: str, **given: Any) -> None:
    check_trl_values(given, *TRAINERS[trainer].classes())


def refused(trainer: str, key: str, value: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        check(trainer, **{key: value})
    assert caught.value.where == f"trl.{key}"
    return caught.value


@pytest.mark.parametrize(
    ("trainer", "key", "value", "says", "fix"),
    [
        ("dpo", "beta", "abc", "'abc' should be a number", "TRL's default, 0.1"),
        ("dpo", "beta", "0.1", "'0.1' should be a number", "write it without quotes"),
        ("dpo", "beta", None, "null should be a number", "leave it out"),
        ("dpo", "beta", True, "true should be a number", "give a number"),
        ("dpo", "label_smoothing", [0.1], "[0.1] should be a number", "give a number"),
        ("dpo", "ref_model_sync_steps", 1.5, "1.5 should be a whole number", "512"),
        ("dpo", "loss_weights", "much", "'much' should be a list of numbers", "leave it out"),
        ("dpo", "loss_weights", [0.5, "x"], "should be a list of numbers", "leave it out"),
        ("dpo", "loss_type", "sigmod", f"is none of {DPO_LOSSES}", "did you mean sigmoid?"),
        ("dpo", "loss_type", ["hinge", "sgmoid"], f"'sgmoid' is none of {DPO_LOSSES}", "mean sigmoid?"),
        ("dpo", "loss_type", "xyz", f"is none of {DPO_LOSSES}", "take one of these"),
        ("dpo", "f_divergence_type", "reverse-kl", "is none of reverse_kl, forward_kl", "mean reverse_kl?"),
        ("kto", "loss_type", "ktoo", "is none of kto, apo_zero_unpaired", "did you mean kto?"),
        ("kto", "train_sampling_strategy", "batch_rebalance", "is none of random, sequential", "take one of"),
        ("cpo", "loss_type", "simp", "is none of sigmoid, hinge, ipo, simpo", "did you mean simpo?"),
        ("sft", "loss_type", "nl", "is none of nll, dft", "did you mean nll?"),
        ("sft", "packing", "no", "'no' should be true or false", "TRL's default, false"),
        ("sft", "packing_strategy", "ffd", "is none of bfd, bfd_split, wrapped", "did you mean bfd?"),
        ("sft", "optim", "adamw_troch", "values that TRL knows", "did you mean adamw_torch?"),
        ("sft", "optim", "zzz", "that TRL knows", "take one of adamw_torch"),
        ("sft", "model_init_kwargs", "float32", "should be a table", "JSON file"),
        ("grpo", "loss_type", "grpoo", "is none of grpo, dr_grpo, dapo", "did you mean grpo?"),
        ("grpo", "temperature", "hot", "'hot' should be a number", "TRL's default, 1.0"),
        ("grpo", "scale_rewards", "groupp", "is none of True, group, batch", "did you mean group?"),
        ("grpo", "importance_sampling_level", "tok", "is none of sequence, token", "did you mean token?"),
        ("grpo", "multi_objective_aggregation", "sum", "is none of sum_then_normalize", "take one"),
        ("grpo", "vllm_mode", "colocated", "is none of server, colocate", "did you mean colocate?"),
        ("rloo", "reward_clip_range", [1.0], "should be a list of 2 numbers", "leave it out"),
        ("distillation", "vllm_mode", "sever", "is none of server, colocate", "did you mean server?"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_what_it_may_be(trainer, key, value, says, fix):
    error = refused(trainer, key, value)
    assert error.message.startswith(f"trl.{key}: ")
    assert says in error.message
    assert fix in error.fix


@pytest.mark.parametrize(
    ("trainer", "given"),
    [
        ("dpo", {"beta": 1, "label_smoothing": 1e-3, "loss_type": "ipo", "use_weighting": True}),
        ("dpo", {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1]}),
        ("dpo", {"loss_weights": None, "ld_alpha": None, "pad_to_multiple_of": "auto"}),
        ("cpo", {"loss_type": "alphapo", "cpo_alpha": 0}),
        ("sft", {"optim": "adamw_8bit", "hub_strategy": "end", "debug": "underflow_overflow", "fsdp": True}),
        ("sft", {"optim_target_modules": ["q_proj"], "lr_scheduler_kwargs": {"num_cycles": 2}, "tf32": None}),
        ("sft", {"report_to": ["trackio", "tensorboard"], "include_num_input_tokens_seen": "non_padding"}),
        ("sft", {"logging_first_step": 1, "deepspeed": '{"zero_optimization": {}}', "run_name": "any name"}),
        ("sft", {"loss_type": "chunked_nll", "trackio_static_space_id": False, "max_grad_norm": 1}),
        ("grpo", {"scale_rewards": "none", "importance_sampling_level": "sequence", "loss_type": "bnpo"}),
        ("grpo", {"scale_rewards": False, "generation_kwargs": {"num_beams": 2}, "num_iterations": 2}),
        ("rloo", {"reward_clip_range": [-1, 1.5]}),
    ],
)
def test_values_that_trl_takes_are_let_through(trainer, given):
    check(trainer, **given)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_default_of_trl_and_of_our_methods_passes(trainer):
    config_class, _ = TRAINERS[trainer].classes()
    for field in dataclasses.fields(config_class):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.init:
            check(trainer, **{field.name: default.value if isinstance(default, Enum) else default})
    for spec in METHODS.values():
        if spec.trainer == trainer:
            check(trainer, **{name: each.value for name, each in spec.trl.items()})


def test_a_table_may_be_the_name_of_a_file_that_is_there(tmp_path):
    path = tmp_path / "zero.json"
    refused("sft", "deepspeed", str(path))
    path.write_text("{}")
    check("sft", deepspeed=str(path))


def test_all_wrong_values_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        check("dpo", beta="x", loss_type="sigmod", label_smoothing=0.1)
    assert "trl.beta: 'x' should be a number; trl.loss_type: 'sigmod' is none of" in caught.value.message
    assert caught.value.where == "trl.beta, trl.loss_type"


def test_a_value_that_only_the_trainer_knows_of_is_let_through():
    @dataclasses.dataclass
    class Listed:
        loss_type: str = dataclasses.field(
            default="dapo", metadata={"help": "Supported values are 'dapo' and 'grpo'."}
        )

    _, trainer_class = TRAINERS["grpo"].classes()
    check_trl_values({"loss_type": "cispo"}, Listed, trainer_class)
    with pytest.raises(ConfigError, match="is none of dapo, grpo"):
        check_trl_values({"loss_type": "cispoo"}, Listed, trainer_class)


def test_what_trl_does_not_say_is_not_refused():
    @dataclasses.dataclass
    class Vague:
        name: str = dataclasses.field(default="other", metadata={"help": "Must be one of 'a' or 'b'."})
        odd: type[int] = int
        unreadable: Any = dataclasses.field(default=None)

    check_trl_values({"name": "c", "odd": "x", "unreadable": object()}, Vague, object)
    Vague.__annotations__["unreadable"] = "NoSuchName"
    check_trl_values({"name": 5}, Vague, object)


def test_the_texts_that_a_trainer_compares_with_are_read_off_its_source():
    trainer_class = TRAINERS["grpo"].classes()[1]
    level = compared_texts(trainer_class, "importance_sampling_level")
    assert level.texts >= {"token", "sequence"}
    assert level.raises
    assert compared_texts(trainer_class, "no_such_argument") == (frozenset(), False)
    assert compared_texts(object, "loss_type") == (frozenset(), False)


# On the command line


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_method_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(method: str, model: Path, *more: str) -> Ran:
    return tunesmith("train", *options_for(method, model), *more)


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("dpo", "trl.beta=abc"), ("dpo", "trl.loss_type=sigmod"), ("dpo", "trl.label_smoothing=abc"),
        ("grpo", "trl.loss_type=grpoo"), ("grpo", "trl.temperature=hot"), ("kto", "trl.loss_type=ktoo"),
        ("grpo", "trl.use_vllm=true"),
    ],
)  # fmt: skip
def test_a_wrong_value_ends_the_check_of_the_configuration(folder, tiny_model, method, setting):
    before = sorted(folder.iterdir())
    ran = train(method, tiny_model, "--set", setting, "--dry-run")
    assert ran.code == 2
    assert ran.err.startswith("checking the configuration ...\nerror: trl.")
    assert f"  where: flag --set {setting.partition('=')[0]}\n" in ran.err
    assert "  next: " in ran.err
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("max_prompt_length: 512", "TRL removed max_prompt_length"), ("bet: 1", "has no argument 'bet'"),
        ("beta: abc", "should be a number"), ("loss_type: sigmod", "is none of"),
        ("output_dir: x", "not yours to set"),
    ],
)  # fmt: skip
def test_a_wrong_line_of_the_trl_table_is_named_with_its_file(folder, tiny_model, line, says):
    text = f"model: {tiny_model}\ndataset: pairs.jsonl\ntrl:\n  weight_decay: 0.1\n  {line}\n"
    Path("t4.yaml").write_text(text)
    ran = tunesmith("train", "dpo", "t4.yaml", "--json")
    assert ran.code == 2
    assert says in ran.document["error"]["message"]
    assert ran.document["error"]["where"] == "t4.yaml:5"


def test_settings_that_do_not_go_together_are_named_with_their_places(folder, tiny_model):
    Path("run.yaml").write_text("global_batch_size: 5\n")
    options = options_for("grpo", tiny_model)
    at = options.index("--global-batch-size")
    ran = tunesmith("train", "grpo", "run.yaml", *options[1:at], *options[at + 2 :])
    assert ran.code == 2
    assert "where: run.yaml:1\n" in ran.err


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("trl.optim_args=foo", "not enough values to unpack"),
        ("trl.lr_scheduler_kwargs={foo: 1}", "unexpected keyword argument 'foo'"),
    ],
)
def test_what_trl_raises_at_its_first_step_is_told_of_the_users_settings(folder, tiny_model, setting, says):
    before = sorted(folder.iterdir())
    ran = train("sft", tiny_model, "--set", setting)
    assert ran.code == 2, ran.err
    assert "loading the model" in ran.err
    sentence = next(line for line in ran.err.splitlines() if line.startswith("error: "))
    assert sentence.startswith("error: TRL failed before its first step was done: ")
    assert says in sentence
    assert f"where: flag --set {setting.partition('=')[0]}\n" in ran.err
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("settings", [(), ("--set", "trl.weight_decay=0.1")])
def test_a_bug_of_ours_stays_one_whatever_the_user_set(folder, tiny_model, settings, monkeypatch):
    monkeypatch.setattr("tunesmith.train.callbacks.time", None)
    ran = train("sft", tiny_model, *settings)
    assert ran.code == 70
    assert "internal error, a bug of Tunesmith: AttributeError" in ran.err


def test_a_switch_that_needs_a_package_asks_for_it():
    for key, name in (("use_vllm", "trl[vllm]"), ("use_liger_kernel", "liger-kernel")):
        with pytest.raises(MissingPackageError) as caught:
            check_trl_packages(RunConfig(model="m", dataset="d", trl={key: True}))
        assert f"python -m pip install '{name}'" in caught.value.fix
        check_trl_packages(RunConfig(model="m", dataset="d", trl={key: False}))
