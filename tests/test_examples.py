"""Every example is a run that loads, and what it hands to TRL is what TRL takes."""

import os
from pathlib import Path

import pytest

from tunesmith.config.loading import load_config
from tunesmith.config.methods import METHODS

EXAMPLES = sorted(Path(__file__).parent.parent.joinpath("examples").glob("*.yaml"))
# Where TRL keeps the config class of each trainer.
CONFIG_CLASSES = {
    "sft": ("trl", "SFTConfig"),
    "dpo": ("trl", "DPOConfig"),
    "kto": ("trl", "KTOConfig"),
    "reward": ("trl", "RewardConfig"),
    "grpo": ("trl", "GRPOConfig"),
    "rloo": ("trl", "RLOOConfig"),
    "distillation": ("trl", "DistillationConfig"),
    "orpo": ("trl.experimental.orpo", "ORPOConfig"),
    "cpo": ("trl.experimental.cpo", "CPOConfig"),
}


def config_class_of(trainer):
    """TRL's config class of a trainer; importing TRL takes seconds, so only when it is asked for."""
    import importlib

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    module, name = CONFIG_CLASSES[trainer]
    return getattr(importlib.import_module(module), name)


def arguments_for(config):
    """What a run would hand to TRL, as far as no model and no device is needed."""
    from dataclasses import fields

    own = {
        name: getattr(config, name)
        for name in ("max_length", "learning_rate", "lr_scheduler_type", "num_generations")
        if getattr(config, name) is not None
    }
    if "per_device_train_batch_size" not in config.trl:
        own |= {"per_device_train_batch_size": config.global_batch_size}
    known = {field.name for field in fields(config_class_of(config.trainer)) if field.init}
    taken = {name: value for name, value in own.items() if name in known}
    return taken | config.trl | {"use_cpu": True, "bf16": False, "report_to": "none"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_loads_and_says_where_its_values_stand(path):
    loaded = load_config(run_yaml=path, environ={})
    assert loaded.config.learning_rate is not None
    start = "init_from" if loaded.config.init_from else "model"
    assert loaded.provenance[start].startswith(f"{path}:")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_hands_trl_only_what_its_config_class_takes(path, tmp_path):
    config = load_config(run_yaml=path, environ={}).config
    made = config_class_of(config.trainer)(output_dir=str(tmp_path), **arguments_for(config))
    if "gradient_accumulation_steps" in config.trl:
        micro, accumulated = made.per_device_train_batch_size, made.gradient_accumulation_steps
        assert micro * accumulated == config.global_batch_size


def test_every_trainer_has_a_config_class():
    assert {method.trainer for method in METHODS.values()} == set(CONFIG_CLASSES)


def test_every_method_has_an_example():
    shown = {load_config(run_yaml=path, environ={}).config.method for path in EXAMPLES}
    assert shown == set(METHODS)


def test_examples_page_names_every_example_with_its_method():
    page = EXAMPLES[0].with_name("README.md").read_text()
    for path in EXAMPLES:
        method = load_config(run_yaml=path, environ={}).config.method
        assert f"| `{path.name}` | {method} |" in page
