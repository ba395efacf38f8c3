"""What the pages of docs/methods promise: methods, settings, metrics, rows and commands that exist."""

import importlib
import inspect
import re
import shlex
from dataclasses import fields

import pytest
from running import tunesmith
from test_examples import CONFIG_CLASSES, EXAMPLES, config_class_of

from tunesmith.cli.app import VERBS, load_verb
from tunesmith.config.loading import load_config
from tunesmith.config.methods import METHODS
from tunesmith.config.run_config import RunConfig
from tunesmith.data.findings import CODES

FOLDER = EXAMPLES[0].parent.parent / "docs" / "methods"
PAGES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.md")) if path.stem != "README"}
HEADINGS = [
    "When to use it", "The data it needs", "Run it", "Five settings that matter", "What its metrics mean",
    "How it fails",
]  # fmt: skip
# What every trainer of transformers logs.
COMMON = {"loss", "eval_loss", "grad_norm", "learning_rate", "epoch"}
each_page = pytest.mark.parametrize("name", PAGES)


def section(page, heading):
    """The text below a heading of the second level."""
    parts = re.split(r"^## ", page, flags=re.MULTILINE)
    return next(part for part in parts if part.splitlines()[0] == heading)


def first_cells(text):
    """What stands in backticks in the first column of the tables of a section."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    return [name for cell in rows for name in re.findall(r"`([^`]+)`", cell)]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def arguments_of(trainer):
    return {field.name for field in fields(config_class_of(trainer)) if field.init}


def test_there_is_a_page_for_every_trainer_and_it_names_its_methods():
    assert set(PAGES) == set(CONFIG_CLASSES)
    overview = (FOLDER / "README.md").read_text()
    for name, method in METHODS.items():
        page = PAGES[method.trainer]
        assert page.startswith(f"# {name}: ") or f"`{name}`" in page
        assert f"`{name}`" in overview


@each_page
def test_page_has_the_headings_in_order(name):
    found = re.findall(r"^## (.+)$", PAGES[name], flags=re.MULTILINE)
    assert [heading for heading in found if heading in HEADINGS] == HEADINGS


@each_page
def test_settings_table_names_five_settings_that_exist(name):
    table = section(PAGES[name], "Five settings that matter")
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == 5
    assert all(cell.strip() for row in rows for cell in row.split("|")[1:4]), "a value or a source is missing"
    for setting in first_cells(table):
        table_name, _, key = setting.rpartition(".")
        known = arguments_of(name) - set(RunConfig.model_fields) if table_name else RunConfig.model_fields
        assert table_name in ("", "trl"), setting
        assert key in known, setting


@each_page
def test_trl_keys_in_the_text_are_arguments_of_the_config_class(name):
    for inner in re.findall(r"`trl: \{([^`]*)\}`", PAGES[name]):
        for key in re.findall(r"(\w+):", inner):
            assert key in arguments_of(name), key


@each_page
def test_metrics_are_logged_by_the_trainer(name):
    module = importlib.import_module(config_class_of(name).__module__.replace("_config", "_trainer"))
    source = inspect.getsource(module).replace("{reward_func_name}", "NAME")
    listed = first_cells(section(PAGES[name], "What its metrics mean"))
    assert len(listed) >= 5
    for metric in set(listed) - COMMON:
        assert f'{metric}"' in source, metric


@each_page
def test_rows_are_accepted_by_validate(name, tmp_path):
    rows = blocks(PAGES[name], "json")
    assert rows
    for number, row in enumerate(rows):
        path = tmp_path / f"rows{number}.jsonl"
        path.write_text(row)
        ran = tunesmith("validate", path, "--method", "cpt" if '"text":' in row else name, "--json")
        assert ran.document["fit"], ran.document["findings"]


@each_page
def test_run_files_load_and_hand_trl_what_it_takes(name, tmp_path):
    files = blocks(PAGES[name], "yaml")
    assert files
    for text in files:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        config = load_config(run_yaml=path, environ={}).config
        assert config.trainer == name
        assert set(config.trl) <= arguments_of(name)


@each_page
def test_commands_parse(name):
    commands = [line for block in blocks(PAGES[name], "bash") for line in block.splitlines()]
    verbs = set()
    for command in commands:
        program, verb, *arguments = shlex.split(command)
        assert program == "tunesmith", command
        assert verb in VERBS, command
        given = load_verb(verb).make_context(verb, arguments).params
        assert given["method"] in METHODS, command
        assert METHODS[given["method"]].trainer == name, command
        verbs.add(verb)
    assert {"validate", "train"} <= verbs


def test_dpo_page_names_every_loss_of_trl():
    said = first_cells(section(PAGES["dpo"], "Losses"))
    field = next(field for field in fields(config_class_of("dpo")) if field.name == "loss_type")
    assert sorted(said) == sorted(re.findall(r"`'(\w+)'`", field.metadata["help"]))


def test_pages_name_only_findings_that_exist():
    for page in PAGES.values():
        assert set(re.findall(r"\bD\d{3}\b", page)) <= set(CODES)


def test_links_lead_to_pages_and_headings():
    for path in FOLDER.glob("*.md"):
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", path.read_text()):
            other = path.parent / target if target else path
            assert other.exists(), f"{path.name}: {target}"
            titles = re.findall(r"^#+ (.+)$", other.read_text(), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert not anchor or anchor in slugs, f"{path.name}: {target}#{anchor}"
