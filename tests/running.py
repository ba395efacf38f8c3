"""The command line as a test runs it: in this process, or as a child that can be sent signals."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.cli.app import run

DEADLINE_S = 180


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document that `--json` promises; anything beside it on stdout fails here."""
        return json.loads(self.out)


def tunesmith(*arguments: str | Path) -> Ran:
    """Run a command in this process, in the current folder."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(each) for each in arguments])
    return Ran(code, out.getvalue(), err.getvalue())


def start_child(cwd: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start a command as a child of its own session; stdout and stderr go to files beside the run."""
    out, err = (cwd / "stdout.txt").open("w"), (cwd / "stderr.txt").open("w")
    with out, err:
        return subprocess.Popen(
            [sys.executable, "-m", "tunesmith", *map(str, arguments)],
            cwd=cwd,
            stdout=out,
            stderr=err,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )


def ended(child: subprocess.Popen[str], cwd: Path) -> Ran:
    """The child's result, waited for with a deadline."""
    try:
        code = child.wait(DEADLINE_S)
    finally:
        child.kill()
    return Ran(code, (cwd / "stdout.txt").read_text(), (cwd / "stderr.txt").read_text())


def wait_for(what: Callable[[], bool], child: subprocess.Popen[str]) -> None:
    """Return once `what` holds; fail when the child ends before, or the deadline passes."""
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert child.poll() is None, "the child ended before what was waited for"
        assert time.monotonic() < deadline, "the deadline passed"
        time.sleep(0.02)


def rows_of(run_path: Path, key: str = "loss") -> dict[int, float]:
    """Step to value of a metric in metrics.jsonl."""
    path = run_path / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return {row["step"]: row[key] for row in rows if key in row}


def record_of(run_path: Path) -> dict[str, Any]:
    """The content of run.json."""
    return json.loads((run_path / "run.json").read_text(encoding="utf-8"))


def weights_of(folder: Path) -> dict[str, Any]:
    """Every tensor of the safetensors file in a model or adapter folder, or of those in a checkpoint."""
    from safetensors.torch import load_file

    (path,) = [each for each in folder.glob("*.safetensors") if each.name != "state.safetensors"]
    return load_file(path)


def same_weights(first: Path, second: Path) -> bool:
    """True when both folders hold the same tensors, bit by bit."""
    import torch

    one, other = weights_of(first), weights_of(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
