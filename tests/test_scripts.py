"""The training scripts, run end to end as a learner would run them, on a tiny model and a local data set.

What runs is a copy whose module-level constants were replaced through the syntax tree, and nothing else.
"""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement
from tiny import chat_rows, write_jsonl

SCRIPTS = Path(__file__).parents[1] / "scripts"
BUDGETS = {  # lines that are not blank, without the header
    "train_minimal.py": 25,
    "train_demo.py": 80,
    "train_production.py": 75,
    "train_production_documented.py": 150,
    "train_organized.py": 140,
    "train_sft_example.py": 110,
    "train_dpo_example.py": 100,  # what it does stands in test_method_scripts.py, and the next one's
    "train_grpo_example.py": 100,
}
ALL = list(BUDGETS)
SFT = ALL[:6]
BY_ENVIRONMENT = ["train_production.py", "train_production_documented.py", "train_organized.py"]
TRACKED = [name for name in SFT if name != "train_minimal.py"]
VARIABLES = (
    *("MODEL", "DATASET", "OUTPUT_REPO", "MAX_EXAMPLES", "MAX_STEPS", "BATCH_SIZE", "LEARNING_RATE"),
    *("USE_TRACKIO", "TRACKIO_PROJECT", "TRACKIO_SPACE_ID"),
)


class TrainerBuiltError(Exception):
    """Raised in the place of training; carries the trainer, or the arguments meant for it."""

    def __init__(self, built: Any) -> None:
        self.built = built


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set folder that `load_dataset` reads: `train.jsonl` with 24 conversations."""
    folder = tmp_path_factory.mktemp("chats")
    write_jsonl(folder / "train.jsonl", chat_rows(24))
    return folder


@pytest.fixture
def run(
    tmp_path: Path, tiny_model: Path, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Run a script for two steps in an empty folder and return its output folder; settings change by name."""

    def run_script(script: str, **settings: str) -> Path:
        monkeypatch.chdir(tmp_path)
        values: dict[str, Any] = {"MODEL": str(tiny_model), "DATASET": str(chats), "MAX_STEPS": 2, **settings}
        path = SCRIPTS / script
        if script in BY_ENVIRONMENT:
            for name, value in values.items():
                monkeypatch.setenv(name, str(value))
        else:
            path = copy_with(path, tmp_path / "copies" / script, values)
        runpy.run_path(str(path), run_name="__main__")
        return tmp_path / "output"

    return run_script


def copy_with(script: Path, copy: Path, constants: dict[str, Any]) -> Path:
    tree = ast.parse(script.read_text())
    assignments = {
        node.targets[0].id: node
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for name, value in constants.items():
        assignments[name].value = ast.Constant(value)
    copy.parent.mkdir(exist_ok=True)
    copy.write_text(ast.unparse(ast.fix_missing_locations(tree)))
    return copy


def recorded_runs() -> set[tuple[str, str]]:
    """Every (project, run) in the real Trackio store of this test session."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    api = trackio.Api()
    return {(project, run.name) for project in SQLiteStorage.get_projects() for run in api.runs(project)}


def stop_when_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scripts build their real trainer, without the Hub, and stop them where training would begin."""
    import transformers

    def stop(trainer: transformers.Trainer, *_: Any, **__: Any) -> None:
        raise TrainerBuiltError(trainer)

    monkeypatch.setattr(transformers.Trainer, "train", stop)
    monkeypatch.setattr(transformers.Trainer, "init_hf_repo", lambda *_, **__: None)


def stop_before_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop scripts where they would build the trainer, with the arguments they would have given it."""
    import trl

    def stop(**arguments: Any) -> None:
        raise TrainerBuiltError(SimpleNamespace(**arguments))

    monkeypatch.setattr(trl, "SFTTrainer", stop)


# Training


@pytest.mark.parametrize("script", SFT)
def test_script_leaves_a_trained_model_that_loads(script, run, tiny_model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    output = run(script, USE_TRACKIO="false") if script in BY_ENVIRONMENT else run(script)

    ids = AutoTokenizer.from_pretrained(output)("The river of Oslo", return_tensors="pt")["input_ids"]
    before = AutoModelForCausalLM.from_pretrained(tiny_model)(ids).logits
    after = AutoModelForCausalLM.from_pretrained(output)(ids).logits
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)


@pytest.mark.parametrize("script", TRACKED)
def test_tracked_script_makes_exactly_one_trackio_run_with_its_loss(script, run, monkeypatch):
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    # The store does not show a run that was opened and never logged to, so the openings are counted as well.
    opened, init = [], trackio.init
    monkeypatch.setattr(
        trackio, "init", lambda *args, **kwargs: opened.append(kwargs) or init(*args, **kwargs)
    )
    earlier = recorded_runs()
    run(script)
    made = recorded_runs() - earlier
    assert len(made) == 1
    assert len(opened) == 1
    project, name = made.pop()
    assert project != "huggingface"  # where runs without a project of their own end up
    assert any("loss" in key for row in SQLiteStorage.get_logs(project, name) for key in row)


def test_running_twice_makes_two_runs(run):
    earlier = recorded_runs()
    run("train_production.py", TRACKIO_PROJECT="twice")
    run("train_production.py", TRACKIO_PROJECT="twice")
    made = recorded_runs() - earlier
    assert len(made) == 2
    assert {project for project, _ in made} == {"twice"}


@pytest.mark.parametrize("script", BY_ENVIRONMENT)
def test_no_run_is_made_when_tracking_is_off(script, run):
    earlier = recorded_runs()
    run(script, USE_TRACKIO="false")
    assert recorded_runs() == earlier


def test_minimal_script_tracks_nothing(run):
    earlier = recorded_runs()
    run("train_minimal.py")
    assert recorded_runs() == earlier


@pytest.mark.parametrize("script", TRACKED)
def test_what_will_be_trained_is_printed_first(script, run, tiny_model, chats, monkeypatch, capsys):
    stop_when_built(monkeypatch)
    with pytest.raises(TrainerBuiltError):
        run(script)
    block = capsys.readouterr().out
    assert block.startswith(f"Model     {tiny_model}")
    for told in (str(chats), "2 steps", "./output", "Trackio"):
        assert told in block


def test_demo_answers_its_question_before_and_after(run, capsys):
    run("train_demo.py")
    printed = capsys.readouterr().out
    assert printed.index("Question:") < printed.index("Before:") < printed.index("After:")


def test_sft_example_trains_an_adapter_and_keeps_checkpoints_to_go_on_from(run):
    output = run("train_sft_example.py", EVAL_STEPS=1)
    assert (output / "adapter_model.safetensors").exists()
    assert not (output / "model.safetensors").exists()
    assert (output / "checkpoint-2" / "optimizer.pt").exists()
    run("train_sft_example.py", EVAL_STEPS=1, RESUME=True, MAX_STEPS=3)
    state = json.loads((output / "checkpoint-3" / "trainer_state.json").read_text())
    evaluated = [row["step"] for row in state["log_history"] if "eval_loss" in row]
    assert evaluated == [0, 1, 2, 2, 3]  # every start evaluates once before its first step


# The Hub and privacy


@pytest.mark.parametrize("script", SFT)
def test_nothing_is_pushed_unless_a_repository_is_named(script, run, monkeypatch):
    stop_when_built(monkeypatch)
    with pytest.raises(TrainerBuiltError) as stopped:
        run(script)
    args = stopped.value.built.args
    assert args.push_to_hub is False
    assert args.hub_private_repo is True
    assert args.trackio_static_space_id is False
    assert args.hub_token is None
    assert args.bf16 is False  # this machine has no GPU to compute it natively


@pytest.mark.parametrize("script", [*BY_ENVIRONMENT, "train_sft_example.py"])
def test_a_named_repository_is_pushed_to_privately_and_without_a_space(script, run, monkeypatch):
    stop_when_built(monkeypatch)
    with pytest.raises(TrainerBuiltError) as stopped:
        run(script, OUTPUT_REPO="somebody/some-model")
    args = stopped.value.built.args
    assert args.push_to_hub is True
    assert args.hub_model_id == "somebody/some-model"
    assert args.hub_private_repo is True
    assert args.trackio_static_space_id is False
    assert args.hub_token is None


# Reading the environment


@pytest.mark.parametrize("script", BY_ENVIRONMENT)
@pytest.mark.parametrize(
    "setting",
    [
        *("MAX_STEPS=ten", "MAX_STEPS=0", "BATCH_SIZE=0", "BATCH_SIZE=2.5", "MAX_EXAMPLES=-1"),
        *("LEARNING_RATE=fast", "LEARNING_RATE=nan", "LEARNING_RATE=0", "USE_TRACKIO=maybe"),
        *("DATASET=missing.jsonl", "DATASET=./missing", "MODEL=./missing", "OUTPUT_REPO=my model"),
    ],
)
def test_wrong_value_gets_one_sentence_before_anything_heavy_is_imported(script, setting):
    watched = (
        "import runpy, sys\n"
        "try: runpy.run_path(sys.argv[1], run_name='__main__')\n"
        "finally: print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    name, _, value = setting.partition("=")
    ended = subprocess.run(
        [sys.executable, "-c", watched, str(SCRIPTS / script)],
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stdout == "[]\n"
    assert re.fullmatch(rf"{name}=.+ cannot be used: .+\.\n", ended.stderr)


@pytest.mark.parametrize("script", BY_ENVIRONMENT)
def test_data_without_a_column_to_learn_from_is_refused_before_a_model_is_loaded(
    script, run, tmp_path, monkeypatch, capsys
):
    stop_before_trainer(monkeypatch)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"question": "Who?", "answer": "Me."}])
    with pytest.raises(SystemExit) as ended:
        run(script, DATASET=str(rows))
    assert ended.value.code == 2
    assert "question" in capsys.readouterr().err


@pytest.mark.parametrize("script", BY_ENVIRONMENT)
def test_an_empty_variable_counts_as_unset(script, run, monkeypatch):
    stop_before_trainer(monkeypatch)
    with pytest.raises(TrainerBuiltError) as stopped:
        run(script, MAX_STEPS="", BATCH_SIZE="", OUTPUT_REPO="", TRACKIO_SPACE_ID="")
    args = stopped.value.built.args
    assert (args.max_steps, args.per_device_train_batch_size) == (20, 2)
    assert (args.push_to_hub, args.trackio_space_id) == (False, None)


@pytest.mark.parametrize("script", BY_ENVIRONMENT)
def test_every_variable_reaches_the_trainer(script, run, tiny_model, monkeypatch):
    stop_before_trainer(monkeypatch)
    with pytest.raises(TrainerBuiltError) as stopped:
        run(
            script,
            **{"MAX_EXAMPLES": "7", "MAX_STEPS": "11", "BATCH_SIZE": "3", "LEARNING_RATE": "1.5e-5"},
            **{"TRACKIO_PROJECT": "bread", "TRACKIO_SPACE_ID": "somebody/space", "USE_TRACKIO": "True"},
        )
    built = stopped.value.built
    assert built.model == str(tiny_model)
    assert len(built.train_dataset) == 7
    assert (built.args.max_steps, built.args.per_device_train_batch_size) == (11, 3)
    assert built.args.learning_rate == 1.5e-5
    assert (built.args.project, built.args.trackio_space_id) == ("bread", "somebody/space")
    assert built.args.report_to == ["trackio"]


@pytest.mark.parametrize("script", BY_ENVIRONMENT)
def test_the_project_is_named_after_the_repository_or_else_the_model(script, run, tiny_model, monkeypatch):
    stop_before_trainer(monkeypatch)
    for repository, project in {"somebody/bread": "bread", "": tiny_model.name}.items():
        monkeypatch.setattr("transformers.Trainer.init_hf_repo", lambda *_, **__: None)
        with pytest.raises(TrainerBuiltError) as stopped:
            run(script, OUTPUT_REPO=repository)
        assert stopped.value.built.args.project == project


@pytest.mark.parametrize("script", BY_ENVIRONMENT)
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv", "save_to_disk", "folder"])
def test_local_data_is_read_whatever_its_format(script, kind, run, tmp_path, monkeypatch):
    from datasets import Dataset

    rows = [{"text": f"The bridge of Lima has {n} steps."} for n in range(9)]
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        write_jsonl(path, rows)
    elif kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text"])
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif kind == "save_to_disk":
        Dataset.from_list(rows).save_to_disk(path)
    else:
        path.mkdir()
        write_jsonl(path / "part-0.jsonl", rows[:4])
        write_jsonl(path / "part-1.jsonl", rows[4:])

    stop_before_trainer(monkeypatch)
    with pytest.raises(TrainerBuiltError) as stopped:
        run(script, DATASET=str(path), MAX_EXAMPLES="all")
    assert list(stopped.value.built.train_dataset) == rows


def test_chats_end_with_the_token_of_the_chat_template(run, monkeypatch):
    stop_when_built(monkeypatch)
    for script in SFT:
        with pytest.raises(TrainerBuiltError) as stopped:
            run(script)
        trainer = stopped.value.built
        assert trainer.processing_class.eos_token == "<|im_end|>"
        assert trainer.processing_class.eos_token_id in trainer.train_dataset[0]["input_ids"]


# The functions of train_organized.py


@pytest.fixture(scope="module")
def organized() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_organized", SCRIPTS / "train_organized.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_organized"] = module
    spec.loader.exec_module(module)
    return module


def test_organized_config_has_the_defaults_of_the_production_script(organized):
    config = organized.Config.from_environment({})
    assert config == organized.Config(run_name=config.run_name)
    assert (config.model, config.dataset) == ("Qwen/Qwen2.5-0.5B", "trl-lib/Capybara")
    assert (config.max_examples, config.max_steps, config.batch_size) == (50, 20, 2)
    assert (config.learning_rate, config.use_trackio, config.output_repo) == (2e-5, True, None)
    assert config.project == "Qwen2.5-0.5B"


def test_organized_config_reads_the_environment_and_stays_as_it_is(organized):
    config = organized.Config.from_environment({"MAX_EXAMPLES": "ALL", "USE_TRACKIO": "False"})
    assert (config.max_examples, config.use_trackio) == (None, False)
    with pytest.raises(AttributeError):
        config.max_steps = 3


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"max_steps": -1}, {"learning_rate": 2.0}])
def test_organized_config_that_makes_no_sense_cannot_be_made(organized, wrong):
    with pytest.raises(ValueError, match="cannot be used"):
        organized.Config(**wrong)


def test_organized_monitoring_makes_no_space(organized):
    monitoring = organized.set_up_monitoring(organized.Config(use_trackio=False, run_name="a"))
    assert monitoring["report_to"] == "none"
    assert monitoring["trackio_static_space_id"] is False


def test_organized_load_data_takes_the_first_examples(organized, chats):
    dataset = organized.load_data(organized.Config(dataset=str(chats), max_examples=5))
    assert [row["messages"] for row in dataset] == [row["messages"] for row in chat_rows(5)]


def test_organized_load_data_takes_what_there_is_when_more_is_asked(organized, chats):
    assert len(organized.load_data(organized.Config(dataset=str(chats), max_examples=1000))) == 24


def test_organized_load_data_refuses_an_empty_file(organized, tmp_path):
    empty = write_jsonl(tmp_path / "empty.jsonl", [])
    with pytest.raises(ValueError, match=r"empty\.jsonl is empty"):
        organized.load_data(organized.Config(dataset=str(empty)))


def test_organized_check_data_refuses_an_empty_set_and_foreign_columns(organized):
    from datasets import Dataset

    config = organized.Config(dataset="somebody/bread")
    with pytest.raises(ValueError, match="somebody/bread is empty"):
        organized.check_data(Dataset.from_dict({"text": []}), config)
    with pytest.raises(ValueError, match=r"has \['input', 'output'\]: give messages"):
        organized.check_data(Dataset.from_dict({"input": ["a"], "output": ["b"]}), config)


def test_organized_trainer_trains_and_publishes_to_the_output_folder(organized, tiny_model, chats, tmp_path):
    config = organized.Config(
        **{"model": str(tiny_model), "dataset": str(chats), "output_dir": str(tmp_path / "model")},
        **{"max_steps": 2, "use_trackio": False},
    )
    trainer = organized.build_trainer(
        config, organized.load_data(config), organized.set_up_monitoring(config)
    )
    metrics = organized.train(trainer)
    assert metrics["train_loss"] > 0
    assert organized.publish(config, trainer) == config.output_dir
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_organized_publish_names_a_hub_data_set_but_never_a_local_path(organized, chats):
    pushed = []
    trainer = SimpleNamespace(hub_model_id="somebody/bread", push_to_hub=lambda **told: pushed.append(told))
    for dataset in ("trl-lib/Capybara", str(chats)):
        config = organized.Config(output_repo="bread", dataset=dataset)
        assert organized.publish(config, trainer) == "https://huggingface.co/somebody/bread"
    assert pushed == [{"dataset_name": "trl-lib/Capybara"}, {"dataset_name": None}]


# The files themselves


def header_and_body(script: str) -> tuple[dict[str, Any], str]:
    text = (SCRIPTS / script).read_text()
    header = re.match(r"# /// script\n((?:#.*\n)*?)# ///\n", text)
    assert header
    lines = [line.removeprefix("#").removeprefix(" ") for line in header[1].splitlines()]
    return tomllib.loads("\n".join(lines)), text[header.end() :]


def imports(script: str) -> set[str]:
    """The third-party packages that a script imports."""
    names = set()
    for node in ast.walk(ast.parse((SCRIPTS / script).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names


@pytest.mark.parametrize("script", ALL)
def test_header_declares_every_import_with_bounded_versions(script):
    header, _ = header_and_body(script)
    assert header["requires-python"] == ">=3.11"
    assert header["tool"]["uv"]["constraint-dependencies"] == ["torch<2.14"]
    required = {each.name: each for each in map(Requirement, header["dependencies"])}
    for requirement in required.values():
        assert {bound.operator for bound in requirement.specifier} == {">=", "<"}
    tracker = set() if script == "train_minimal.py" else {"trackio"}
    assert imports(script) | tracker | {"torch", "transformers"} == set(required)


@pytest.mark.parametrize("script", ALL)
def test_header_accepts_what_is_installed(script):
    from importlib.metadata import version

    header, _ = header_and_body(script)
    for requirement in map(Requirement, header["dependencies"]):
        assert version(requirement.name) in requirement.specifier


@pytest.mark.parametrize("script", ALL)
def test_script_stands_alone_and_leaves_tokens_and_runs_to_the_trainer(script):
    assert not imports(script) & {"tunesmith", "trackio"}
    assert "hub_token" not in (SCRIPTS / script).read_text()


@pytest.mark.parametrize("script", ALL)
def test_no_account_is_named_but_the_owners_of_model_and_data(script):
    strings = {
        node.value
        for node in ast.walk(ast.parse((SCRIPTS / script).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    named = {text for text in strings if re.fullmatch(r"[A-Za-z][\w.-]*/[\w.-]+", text)}
    named -= {text for text in named if text.startswith("eval_rewards/")}  # a metric
    assert named <= {
        *("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B-Instruct"),
        *("trl-lib/Capybara", "trl-lib/ultrafeedback_binarized", "openai/gsm8k"),
    }


@pytest.mark.parametrize("script", ALL)
def test_script_stays_within_its_budget_of_lines(script):
    _, body = header_and_body(script)
    assert len([line for line in body.splitlines() if line.strip()]) <= 1.15 * BUDGETS[script]


def test_documented_production_script_is_the_production_script_with_a_manual():
    assert code("train_production_documented.py") == code("train_production.py")


def code(script: str) -> str:
    """A script's syntax tree without docstrings (comments are not in it anyway)."""
    tree = ast.parse((SCRIPTS / script).read_text())
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and ast.get_docstring(node) is not None
        ):
            del node.body[0]
    return ast.dump(tree)


def test_guide_describes_every_script_and_no_other():
    guide = (SCRIPTS / "README.md").read_text()
    assert set(re.findall(r"\b[a-z_]+\.py\b", guide)) == {path.name for path in SCRIPTS.glob("*.py")}
    for variable in VARIABLES:
        assert f"| `{variable}` |" in guide
