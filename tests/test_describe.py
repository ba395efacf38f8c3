"""Settings and numbers as a person would write them."""

import pytest
from method_data import options_for, write_method_data
from running import tunesmith

from tunesmith.cli.describe import provenance_table, quantity
from tunesmith.cli.progress import step_note
from tunesmith.config.loading import load_config
from tunesmith.train.events import Progress


def cells(loaded):
    """The table of a configuration: the value of each setting that it shows."""
    # As run.json keeps it, so as `tunesmith show` reads it.
    table = provenance_table(loaded.config.model_dump(mode="json"), loaded.provenance)
    return dict(zip(*(list(column.cells) for column in table.columns[:2]), strict=True))


def shown(*, flags=None, sets=()):
    given = {"model": "m", "dataset": "d"} | (flags or {})
    return cells(load_config(flags=given, assignments=sets, environ={}))


def test_what_has_no_value_or_is_off_by_default_is_left_out():
    rows = shown()
    assert {"method", "model", "dataset", "learning_rate", "lora_r", "seed"} <= rows.keys()
    assert not rows.keys() & {"allow", "map", "max_rows", "rewards", "use_dora", "trl", "run_dir"}
    assert "use_dora" in shown(flags={"use_dora": "false"})
    assert not any(name.startswith("lora_") for name in shown(flags={"tuning": "full"}))
    assert "lora_r" in shown(flags={"tuning": "full", "lora_r": "8"})


@pytest.mark.parametrize(
    ("sets", "name", "written"),
    [
        (["learning_rate=2e-5"], "learning_rate", "2e-05"),
        (["learning_rate=0.00012345678"], "learning_rate", "0.00012345678"),
        (["num_train_epochs=2"], "num_train_epochs", "2"),
        (["map=prompt=question,completion=answer"], "map", "{prompt: question, completion: answer}"),
        (["allow=D207,D303"], "allow", "D207, D303"),
        (["trl.loss_weights=[0.8, 1.0]"], "trl.loss_weights", "0.8, 1"),
        (["trl.packing=true"], "trl.packing", "true"),
        (["trl.model_init_kwargs={use_kernels: true}"], "trl.model_init_kwargs", "{use_kernels: true}"),
    ],
)
def test_values_are_written_as_in_run_yaml(sets, name, written):
    assert shown(sets=sets)[name] == written


def test_datasets_and_rewards_show_what_was_said_of_them(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "method: grpo\nmodel: m\ndataset: [{path: a}, {path: b, split: test}]\n"
        "rewards: [format, {function: regex, weight: 0.5, args: {pattern: x}}]\n"
    )
    rows = cells(load_config(run_yaml=path, environ={}))
    assert rows["dataset"] == "a, {path: b, split: test}"
    assert rows["rewards"] == "format, {function: regex, weight: 0.5, args: {pattern: x}}"


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (1, "step", "1 step"), (2, "step", "2 steps"), (0, "row", "0 rows"), (1.0, "epoch", "1 epoch"),
        (1.2, "epoch", "1.2 epochs"), (12345, "row", "12,345 rows"),
    ],
)  # fmt: skip
def test_a_noun_fits_its_number(number, noun, said):
    assert quantity(number, noun) == said


def test_a_loss_that_rounds_to_nothing_has_no_sign():
    note = step_note(Progress(1, 2, -0.0001, None, None, {"margin": -0.00001, "accuracy": -0.25}))
    assert note == "1/2  loss 0.000  margin 0.000  accuracy -0.250"


@pytest.mark.parametrize("method", ["grpo", "rloo", "distillation"])
def test_a_plan_of_a_method_that_samples_says_how_long_answers_may_be(
    method, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_method_data(tmp_path)
    ran = tunesmith("train", *options_for(method, tiny_model), "--dry-run")
    assert ran.code == 0, ran.err
    assert "answers     sampled in training, at most 6 tokens each" in ran.err


def test_one_prompt_is_one_prompt_and_one_step_one_step(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_method_data(tmp_path)
    options = options_for("grpo", tiny_model)
    for name in ("--num-generations", "--max-steps"):
        at = options.index(name)
        del options[at : at + 2]
    ran = tunesmith("train", *options, "--num-generations", "4", "--max-steps", "1")
    assert ran.code == 0, ran.err
    assert "1 of 1 prompt, 4 answers each (1 step)" in ran.err
    assert "done: 1 step, " in ran.err
