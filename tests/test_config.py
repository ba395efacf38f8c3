"""Where a setting comes from, what is refused, and that every refusal is a sentence with a place."""

from pathlib import Path

import pytest

from tunesmith.config.defaults import field_defaults
from tunesmith.config.layers import parse_scalar
from tunesmith.config.loading import OWNED_TRL_KEYS, load_config, with_tuning
from tunesmith.config.methods import METHODS, TRAINERS_OF, TRL_SETTINGS
from tunesmith.config.run_config import RunConfig
from tunesmith.config.template import run_yaml_template
from tunesmith.errors import ConfigError

NEEDED = {"model": "m", "dataset": "d"}


def write_yaml(folder: Path, text: str | bytes) -> Path:
    path = folder / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(folder=None, text=None, *, flags=None, sets=(), environ=None):
    path = write_yaml(folder, text) if text is not None else None
    return load_config(run_yaml=path, flags=flags or {}, assignments=sets, environ=environ or {})


def refusal(*args, **options) -> ConfigError:
    with pytest.raises(ConfigError) as refused:
        load(*args, **options)
    assert refused.value.message.strip()
    return refused.value


# Precedence and provenance


PLACES = ("yaml", "env", "set", "flag")


@pytest.mark.parametrize(
    ("places", "value", "origin"),
    [
        ((), 42, "default"),
        (("yaml",), 1, "run.yaml:4"),
        (("env",), 2, "environment TUNESMITH_SEED"),
        (("set",), 3, "flag --set seed"),
        (("flag",), 3, "flag --seed"),
        (("yaml", "env"), 2, "environment TUNESMITH_SEED"),
        (("yaml", "set"), 3, "flag --set seed"),
        (("yaml", "flag"), 3, "flag --seed"),
        (("env", "set"), 3, "flag --set seed"),
        (("env", "flag"), 3, "flag --seed"),
        (("yaml", "env", "flag"), 3, "flag --seed"),
        (PLACES, 3, "flag --seed"),
    ],
)
def test_flags_win_over_environment_over_file_over_default(places, value, origin, tmp_path):
    loaded = load(
        tmp_path,
        "# a comment\nmodel: m\ndataset: d\n" + ("seed: 1\n" if "yaml" in places else ""),
        environ={"TUNESMITH_SEED": "2"} if "env" in places else {},
        sets=["seed=3"] if "set" in places else [],
        flags={"seed": "3"} if "flag" in places else {},
    )
    assert loaded.config.seed == value
    assert loaded.provenance["seed"].removeprefix(f"{tmp_path}/") == origin


def test_every_field_and_trl_key_has_a_provenance(tmp_path):
    loaded = load(
        tmp_path,
        "model: m\ndataset: d\ntrl:\n  weight_decay: 0.1\n  adam_beta1: 0.8\n",
        environ={"TUNESMITH_TRL__ADAM_BETA1": "0.7"},
        sets=["trl.adam_beta2=0.9"],
    )
    assert set(loaded.provenance) >= set(RunConfig.model_fields) - {"trl"}
    assert loaded.config.trl == {"weight_decay": 0.1, "adam_beta1": 0.7, "adam_beta2": 0.9}
    assert loaded.provenance["trl.weight_decay"] == f"{tmp_path / 'run.yaml'}:4"
    assert loaded.provenance["trl.adam_beta1"] == "environment TUNESMITH_TRL__ADAM_BETA1"
    assert loaded.provenance["trl.adam_beta2"] == "flag --set trl.adam_beta2"


@pytest.mark.parametrize(("tuning", "rate"), [("lora", 2e-4), ("full", 2e-5)])
def test_defaults_that_depend_on_the_tuning_name_their_source(tuning, rate):
    loaded = load(flags=NEEDED | {"tuning": tuning})
    assert loaded.config.learning_rate == rate
    for name, default in field_defaults("sft", tuning).items():
        assert getattr(loaded.config, name) == default.value
        assert loaded.provenance[name] == f"default ({default.source})"
        assert default.source
    set_by_hand = load(flags=NEEDED | {"tuning": tuning, "learning_rate": "0.5"})
    assert set_by_hand.provenance["learning_rate"] == "flag --learning-rate"


def test_tunesmith_variables_that_are_no_settings_are_left_alone():
    environ = {"TUNESMITH_CACHE": "/x", "TUNESMITH_DEBUG": "1", "OTHER_SEED": "7"}
    assert load(flags=NEEDED, environ=environ).config == load(flags=NEEDED).config


def test_a_loaded_configuration_is_frozen_and_loads_back_from_json():
    config = load(flags=NEEDED | {"test_size": "0.1"}, sets=["trl.weight_decay=0.1"]).config
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


# Files


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4"])
def test_scientific_notation_in_yaml_is_a_number(text, tmp_path):
    assert load(tmp_path, f"model: m\ndataset: d\nlearning_rate: {text}\n").config.learning_rate == 1e-4
    assert parse_scalar(text) == 1e-4


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfmodel: m\ndataset: d\nseed: 7\n",
        b"model: m\r\ndataset: d\r\nseed: 7\r\n",
        b"\xef\xbb\xbfmodel: m\r\ndataset: d\r\nseed: 7\r\n",
    ],
)
def test_byte_order_mark_and_windows_line_ends_change_nothing(text, tmp_path):
    loaded = load(tmp_path, text)
    assert loaded.config.seed == 7
    assert loaded.config.model == "m"
    assert loaded.provenance["seed"] == f"{tmp_path / 'run.yaml'}:3"


def test_a_trl_table_whose_lines_are_all_commented_out_is_empty(tmp_path):
    assert load(tmp_path, "model: m\ndataset: d\ntrl:\n#  weight_decay: 0.1\n").config.trl == {}


def test_keys_that_come_in_by_a_yaml_merge_are_read(tmp_path):
    loaded = load(tmp_path, "model: m\ndataset: d\ntrl:\n  <<: {weight_decay: 0.1}\n  adam_beta1: 0.8\n")
    assert loaded.config.trl == {"weight_decay": 0.1, "adam_beta1": 0.8}


@pytest.mark.parametrize(
    ("text", "says", "line"),
    [
        ("seed: 1\nmodel: m\nseed: 2\n", "duplicate key", ":3"),
        ("model: [1, 2\n", "not valid YAML", ""),
        ("\tmodel: m\n", "not valid YAML", ":1"),
        ("just words\n", "should hold keys and values", ""),
        ("- a\n- b\n", "should hold keys and values", ""),
        ("a: 1\n---\nb: 2\n", "not valid YAML", ""),
        ("run_name: 2024-99-99\n", "not valid YAML", ""),
        ("seed: " + "9" * 5000 + "\n", "not valid YAML", ""),
        ("[" * 700, "nested too deeply", ""),
        (b"model: \xff\xfe\n", "can't be read", ""),
    ],
)
def test_a_file_that_is_no_run_yaml_is_named_with_its_line(text, says, line, tmp_path):
    error = refusal(tmp_path, text)
    assert says in error.message
    assert str(tmp_path / "run.yaml") in error.where
    assert error.where.endswith(line)
    assert error.fix


def test_a_missing_file_and_a_folder_are_sentences(tmp_path):
    with pytest.raises(ConfigError, match="there is no file") as missing:
        load_config(run_yaml=tmp_path / "none.yaml", environ={})
    assert "tunesmith init" in missing.value.fix
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(run_yaml=tmp_path, environ={})
    with pytest.raises(ConfigError, match="no name of a file"):
        load_config(run_yaml=Path("a\0b"), environ={})


@pytest.mark.parametrize("method", METHODS)
def test_what_init_writes_loads_back_and_mentions_every_field(method, tmp_path):
    text = run_yaml_template(method, "run.yaml")
    trainer = METHODS[method].trainer
    for name in RunConfig.model_fields:
        meant = trainer in TRAINERS_OF.get(name, (trainer,))
        assert (f"\n{name}: " in text or f"\n# {name}:" in text) == meant
    loaded = load(tmp_path, text)
    assert loaded.config.method == method
    given = {name for name, origin in loaded.provenance.items() if "run.yaml" in origin}
    needed = {"grpo": {"rewards", "dataset_config"}, "distillation": {"teacher_model", "dataset_config"}}
    needed["rloo"] = needed["grpo"]
    assert given == {"method", "model", "dataset"} | needed.get(trainer, set())


@pytest.mark.parametrize("method", METHODS)
def test_what_init_writes_loads_back_with_every_line_uncommented(method, tmp_path):
    lines = run_yaml_template(method, "run.yaml").splitlines()
    names = tuple(f"# {name}:" for name in RunConfig.model_fields)
    active = "\n".join(line.removeprefix("# ") if line.startswith(names) else line for line in lines)
    assert load(tmp_path, active).config == load(tmp_path, "\n".join(lines)).config


def trl_table(method, folder):
    """The `trl:` table that init writes, with every line of it that has a value uncommented."""
    text = run_yaml_template(method, "run.yaml")
    table = text[text.index("# trl:") :].replace("# trl:", "trl:").replace("\n#   ", "\n    ")
    loaded = load(folder, f"method: {method}\nmodel: m\ndataset: d\n{table}")
    return {name: value for name, value in loaded.config.trl.items() if value is not None}


@pytest.mark.parametrize("method", METHODS)
def test_the_trl_table_of_init_holds_the_defaults_in_force(method, tmp_path):
    from dataclasses import MISSING, fields

    from test_examples import config_class_of

    trainer, table = METHODS[method].trainer, trl_table(method, tmp_path)
    of_trl = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(config_class_of(trainer))
    }
    own = {name: each.value for name, each in METHODS[method].trl.items()}
    text = run_yaml_template(method, "run.yaml")
    for name in (*TRL_SETTINGS[trainer], *own, "weight_decay", "max_grad_norm"):
        assert f"\n#   {name}: " in text
        assert table.get(name) == own.get(name, of_trl[name])
    assert "documentation" not in text


@pytest.mark.parametrize("method", METHODS)
def test_init_writes_down_every_trl_setting_that_the_page_of_the_method_calls_important(method):
    from test_method_docs import PAGES, first_cells, section

    named = first_cells(section(PAGES[METHODS[method].trainer], "Five settings that matter"))
    text = run_yaml_template(method, "run.yaml")
    for name in named:
        key = name.removeprefix("trl.")
        assert (f"\n#   {key}: " if key != name else f"\n# {key}: ") in text


def test_init_works_where_trl_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    text = run_yaml_template("dpo", "run.yaml")
    assert "#   beta:  " in text
    assert "its default stands in TRL's documentation" in text


@pytest.mark.parametrize("method", METHODS)
def test_a_refusal_names_the_init_of_its_own_method(method, tmp_path):
    command = f"tunesmith init {method}"
    flags = NEEDED | {"method": method}
    assert refusal(flags=flags | {"max_steps": "0"}).fix == f"{command} explains every key"
    assert refusal(flags=flags, sets=["qqqq=1"]).fix == f"{command} lists every key"
    in_file = refusal(tmp_path, f"method: {method}\nmodel: m\ndataset: d\nseed: x\n")
    assert in_file.fix == f"{command} explains every key"
    with pytest.raises(ConfigError) as missing:
        load_config(run_yaml=tmp_path / "none.yaml", flags={"method": method}, environ={})
    assert missing.value.fix.startswith(f"{command} --out ")


def test_every_refusal_says_what_to_do_next(tmp_path):
    for error in (
        refusal(tmp_path, "model: a: b\n"),
        refusal(tmp_path, "model: m\nmodel: n\n"),
        refusal(tmp_path, "\tmodel: m\n"),
        refusal(tmp_path, "just words\n"),
        refusal(tmp_path, b"model: \xff\xfe\n"),
        refusal(flags=NEEDED, sets=["seed"]),
        refusal(flags=NEEDED, sets=["seed=1", "seed=2"]),
        refusal(flags=NEEDED | {"seed": "1"}, sets=["seed=2"]),
        refusal(flags=NEEDED, sets=["trl=5"]),
    ):
        assert error.fix, error.message


# What is refused


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lerning_rate", "learning_rate"),
        ("max_step", "max_steps"),
        ("Seed", "seed"),
        ("lr", "learning_rate"),
        ("epochs", "num_train_epochs"),
        ("batch_size", "global_batch_size"),
        ("micro_batch_size", "trl.per_device_train_batch_size"),
        ("model_name_or_path", "model"),
        ("max_seq_length", "max_length"),
        ("output_dir", "run_dir"),
    ],
)
def test_an_unknown_key_names_the_nearest_and_its_place(typed, meant, tmp_path):
    in_file = refusal(tmp_path, f"model: m\ndataset: d\n{typed}: 1\n")
    assert repr(typed) in in_file.message
    assert in_file.fix == f"did you mean {meant}?"
    assert in_file.where == f"{tmp_path / 'run.yaml'}:3"
    on_line = refusal(flags=NEEDED, sets=[f"{typed}=1"])
    assert (on_line.where, on_line.fix) == (f"flag --set {typed}", f"did you mean {meant}?")


def test_unknown_keys_are_collected_with_their_places(tmp_path):
    error = refusal(tmp_path, "model: m\nlr: 1\nwhatever_this_is: 2\n", environ={"TUNESMITH_EPOCHS": "1"})
    for part in ("'lr'", "run.yaml:2", "'whatever_this_is'", "run.yaml:3", "environment TUNESMITH_EPOCHS"):
        assert part in error.message


NUMBERS = {
    # field: values out of its range
    "max_rows": ["0", "-1"],
    "max_length": ["0", "7", "-3"],
    "test_size": ["0", "-0.1", "1.5"],
    "lora_r": ["0", "-8", "5000"],
    "lora_alpha": ["0", "-1"],
    "lora_dropout": ["-0.1", "1", "1.5"],
    "num_train_epochs": ["0", "-1"],
    "max_steps": ["0", "-1"],
    "global_batch_size": ["0", "-4", "1000001"],
    "learning_rate": ["0", "-1e-4", "1.5"],
    "warmup_steps": ["-1"],
    "seed": ["-1", str(2**32)],
    "eval_steps": ["0", "-1"],
    "save_steps": ["0", "-1"],
    "save_total_limit": ["0", "-1"],
    "logging_steps": ["0", "-1"],
    "max_minutes": ["0", "-1"],
    "early_stopping_patience": ["0", "-1"],
    "num_processes": ["0", "-1"],
    "num_generations": ["1", "0", "-1"],
    "max_completion_length": ["0", "-1"],
    "max_steps_without_signal": ["0", "-1"],
}


def test_the_table_of_numbers_names_every_numeric_field():
    kinds = (int, float, int | None, float | None)
    assert set(NUMBERS) == {
        name for name, field in RunConfig.model_fields.items() if field.annotation in kinds
    }


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_range_is_refused_with_key_value_and_place(name, tmp_path):
    for value in [*NUMBERS[name], "nan", "inf", "-inf", "many", ""]:
        error = refusal(flags=NEEDED | {name: value})
        assert error.message.startswith(name)
        assert error.where == f"flag --{name.replace('_', '-')}"
    for value in [".nan", ".inf", "[1]", "{a: 1}", "true", "'x'"]:
        error = refusal(tmp_path, f"model: m\ndataset: d\n{name}: {value}\n")
        assert error.message.startswith(name)
        assert error.where == f"{tmp_path / 'run.yaml'}:3"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tuning", "prefix"), ("precision", "fp8"), ("device", "tpu"), ("gradient_checkpointing", "perhaps"),
        ("model", ""), ("model", "a\0b"), ("dataset", ""), ("dataset", "a\nb"), ("run_dir", "x\0"),
        ("trl", "weight_decay"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_refused_with_its_key(name, value):
    error = refusal(flags=NEEDED | {name: value})
    assert error.message.startswith(name)
    assert error.where == f"flag --{name.replace('_', '-')}"


def test_all_wrong_values_are_told_at_once():
    message = refusal(flags={"max_steps": "0", "seed": "x"}).message
    for part in ("model is missing", "dataset is missing", "max_steps", "seed"):
        assert part in message


def test_a_flag_and_set_that_disagree_are_refused_and_agreeing_ones_are_not():
    error = refusal(flags=NEEDED | {"seed": "1"}, sets=["seed=2"])
    assert "seed" in error.message
    assert "--set" in error.message
    assert load(flags=NEEDED | {"seed": "1"}, sets=["seed=1"]).config.seed == 1
    assert "twice" in refusal(flags=NEEDED, sets=["seed=1", "seed=2"]).message


@pytest.mark.parametrize("assignment", ["seed", "=3", "", "  =1"])
def test_an_assignment_without_key_or_value_is_refused(assignment):
    assert "key=value" in refusal(flags=NEEDED, sets=[assignment]).message


def test_the_method_on_the_line_must_agree_with_the_file(tmp_path):
    text = "method: dpo\nmodel: m\ndataset: d\n"
    error = refusal(tmp_path, text, flags={"method": "sft"})
    assert "sft" in error.message
    assert "dpo" in error.message
    assert error.where == f"{tmp_path / 'run.yaml'}:1"
    assert error.fix == f"tunesmith train dpo {tmp_path / 'run.yaml'}, or write method: sft there"
    assert "no method 'dqo'" in refusal(tmp_path, text, flags={"method": "dqo"}).message
    assert load(tmp_path, text.replace("dpo", "sft"), flags={"method": "sft"}).config.method == "sft"


@pytest.mark.parametrize("key", OWNED_TRL_KEYS)
def test_a_trl_key_that_tunesmith_owns_is_refused_with_the_right_name(key, tmp_path):
    error = refusal(tmp_path, f"model: m\ndataset: d\ntrl:\n  {key}: 1\n")
    assert f"trl.{key}" in error.message
    assert error.fix == f"use {OWNED_TRL_KEYS[key]}"
    assert error.where == f"{tmp_path / 'run.yaml'}:4"


def test_a_trl_key_that_is_a_field_is_sent_to_the_top_level():
    for key in ("learning_rate", "max_steps", "seed", "gradient_checkpointing"):
        error = refusal(flags=NEEDED, sets=[f"trl.{key}=1"])
        assert error.fix == f"write {key} at the top level"


def test_a_token_is_never_repeated_in_a_refusal():
    error = refusal(flags=NEEDED, sets=["trl.hub_token=hf_abcdefghijklmnopqrstuvwxyz"])
    assert "hf_abc" not in f"{error.message}{error.where}{error.fix}"


def test_evaluation_settings_need_one_source_of_evaluation_data():
    both = refusal(flags=NEEDED | {"test_size": "0.1", "eval_dataset": "e"})
    assert "eval_dataset and test_size" in both.message
    assert both.where == "flag --test-size; flag --eval-dataset"
    for name, value in {
        "eval_steps": "5",
        "early_stopping_patience": "2",
        "load_best_model_at_end": "1",
    }.items():
        assert name in refusal(flags=NEEDED | {name: value}).message
        assert load(flags=NEEDED | {name: value, "test_size": "3"}).config.has_eval


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("dataset: [{path: a, wieght: 2}]", "did you mean weight?"),
        ("dataset: [{path: a}, {split: b}]", "dataset.1.path is missing"),
        ("dataset: [{path: a, weight: -1}]", "dataset.0.weight"),
        ("dataset: []", "at least 1"),
        ("dataset: [a]", "dataset.0"),
        ("dataset: [{path: a, weight: 1}, {path: b}]", "some have none"),
        ("dataset: [{path: a}]\ndataset_config: x", "dataset_config has no meaning"),
        ("dataset: [{path: a}]\ndataset_train_split: test", "dataset_train_split has no meaning"),
    ],
)
def test_a_faulty_mixture_is_refused_with_its_entry(yaml, says, tmp_path):
    error = refusal(tmp_path, f"model: m\n{yaml}\n")
    assert says in error.message
    assert "run.yaml:" in error.where


def test_names_of_lora_targets_may_be_a_list_or_a_line(tmp_path):
    assert load(flags=NEEDED | {"lora_target_modules": "q_proj, v_proj"}).config.lora_target_modules == (
        "q_proj",
        "v_proj",
    )
    loaded = load(tmp_path, "model: m\ndataset: d\nlora_target_modules: [q_proj]\n")
    assert loaded.config.lora_target_modules == ("q_proj",)


def test_a_date_as_a_name_is_text(tmp_path):
    assert load(tmp_path, "model: m\ndataset: d\nrun_name: 2026-11-22\n").config.run_name == "2026-11-22"


def test_what_auto_settles_on_leaves_ones_own_settings_alone(tmp_path: Path):
    path = tmp_path / "default.yaml"
    path.write_text(
        "method: sft\nmodel: m\ndataset: d.jsonl\ntuning: auto\nlearning_rate: 0.5\nwarmup_steps: null\n"
    )
    loaded = load_config(run_yaml=path, environ={})
    full = with_tuning(loaded, "full")
    assert (full.config.tuning, full.config.learning_rate) == ("full", 0.5)
    assert (
        full.config.warmup_steps
        == load_config(run_yaml=path, flags={"tuning": "full"}, environ={}).config.warmup_steps
    )
