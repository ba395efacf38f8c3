"""The shape of the code: what imports what, how long things are, who prints."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "tunesmith"
SOURCES = sorted(PACKAGE.rglob("*.py"))
# A room imports only from rooms to its left; demo puts the stages together, cli talks to people.
ORDER = [
    "errors", "config", "runs", "rewards", "data", "plan", "launch", "train", "evaluate", "export", "publish",
    "demo", "cli",
]  # fmt: skip
HEAVY = {"torch", "trl", "peft", "accelerate"}
HEAVY_ROOMS = {"train", "evaluate", "export"}
# They define classes of torch, and are themselves imported in functions only.
LAZY = {"captured", "lora_linear", "sampling", "stand_ins"}
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(tree):
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module]
            if node.module == "tunesmith":
                names = [f"tunesmith.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "tunesmith" and len(parts) > 1 and parts[1] in ORDER:
                yield parts[1]


@each_source
def test_a_room_imports_only_from_its_left(path):
    if room(path) not in ORDER:
        assert path.name in ("__init__.py", "__main__.py")
        return
    own = ORDER.index(room(path))
    assert all(ORDER.index(other) <= own for other in imported_rooms(ast.parse(path.read_text())))


@each_source
def test_heavy_packages_are_imported_in_functions_where_models_are_worked_on_only(path):
    tree = ast.parse(path.read_text())
    top = {node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            heavy = {name.split(".")[0] for name in names} & HEAVY
            lazily = node not in top or path.stem in LAZY
            assert not heavy or (room(path) in HEAVY_ROOMS and lazily), (path, node.lineno, heavy)
            if isinstance(node, ast.ImportFrom) and node in top and node.module:
                assert path.stem in LAZY or node.module.split(".")[-1] not in LAZY, (path, node.lineno)


def test_files_and_functions_are_short():
    for path in SOURCES:
        text = path.read_text()
        if path.name != "wording.py":  # a table of sentences, no code
            assert text.count("\n") <= MAX_FILE_LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, (path, node.name)


def test_no_drawer_modules():
    drawers = re.compile(r"utils?|helpers?|common|misc|manager")
    assert not [
        path for path in SOURCES if drawers.fullmatch(path.stem) or drawers.fullmatch(path.parent.name)
    ]


def test_public_functions_say_what_comes_back():
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), (path, node.name)


def test_only_the_command_line_prints_or_exits():
    for path in SOURCES:
        if room(path) == "cli":
            continue
        calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        names = {f.id for f in calls if isinstance(f, ast.Name)}
        assert not names & {"print", "exit", "quit"}, path


def test_swallowing_every_exception_needs_a_reason():
    for path in SOURCES:
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            raised = "raise" in "".join(lines[number : number + 8])
            if re.search(r"except (Base)?Exception\b", line) and not raised:
                assert "#" in line, f"{path}:{number}"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from tunesmith.cli.app import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & (HEAVY | {"transformers", "datasets", "trackio", "numpy", "pyarrow"})
