"""`make mutants`: takes one guard out at a time, in a copy of the code, and asks that its test turns red.

    python tests/mutants.py [F31 F33 ...]      # all of mutants.toml, or those whose names begin so

Prints a line for each; exits with 1 when one survives, or when its text isn't in the code exactly once.
"""

# ruff: noqa: T201

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
# What pytest exits with: all passed, some failed.
GREEN, RED = 0, 1
# The slowest test takes half a minute; without a guard one may never end, which is no verdict.
LIMIT_S = 300


@dataclass(frozen=True)
class Mutant:
    """A guard that is taken out: in `file` the text `take`, of which `put` is left; `tests` turn red then."""

    name: str
    file: str
    take: str
    tests: tuple[str, ...]
    put: str = ""

    def applied(self, source: str) -> str:
        """The code without the guard.

        Raises:
            ValueError: the text doesn't stand in it exactly once.
            SyntaxError: what is left is no Python, and would turn any test red.
        """
        if (number := source.count(self.take)) != 1:
            raise ValueError(f"{self.name}: the text to take out stands {number} times in {self.file}")
        left = source.replace(self.take, self.put)
        compile(left, self.file, "exec")
        return left


def read_mutants(path: Path, beginnings: Sequence[str]) -> list[Mutant]:
    """The mutants of a file whose names begin with one of `beginnings`; without any, all."""
    told = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    mutants = [Mutant(**{**each, "tests": tuple(each["tests"])}) for each in told]
    return [each for each in mutants if not beginnings or each.name.startswith(tuple(beginnings))]


class Copy:
    """The code and its tests in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)

    def path(self, mutant: Mutant) -> Path:
        """The file that a mutant changes."""
        return self.folder / "src/tunesmith" / mutant.file

    def run(self, tests: Sequence[str]) -> tuple[int, float, str]:
        """Pytest's exit code (below zero where a signal ended it), its seconds, the end of what it said."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder / "src"),
            # Two versions of one second and one size would share their bytecode.
            "PYTHONDONTWRITEBYTECODE": "1",
            # On a model of some thousand weights threads only wait for each other.
            "OMP_NUM_THREADS": "1",
        }
        began = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
            cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            said, _ = child.communicate(timeout=LIMIT_S * len(tests))
        except subprocess.TimeoutExpired:
            said = "it had to be ended"
        finally:  # and whatever it started, when this script is interrupted too
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        return child.wait(), time.monotonic() - began, said[-3000:]

    def verdict(self, mutant: Mutant) -> tuple[str, float]:
        """What became of a mutant, and the seconds that took; the code is as before afterwards."""
        path = self.path(mutant)
        before = path.read_text(encoding="utf-8")
        path.write_text(mutant.applied(before), encoding="utf-8")
        try:
            code, seconds, said = self.run(mutant.tests)
        finally:
            path.write_text(before, encoding="utf-8")
        verdict = {GREEN: "survived", RED: "killed"}.get(code, f"error ({code})")
        if code not in (GREEN, RED):
            print(said)
        return verdict, seconds


def main(beginnings: Sequence[str]) -> int:
    """Try the mutants; the exit code."""
    mutants = read_mutants(HERE / "mutants.toml", beginnings)
    with tempfile.TemporaryDirectory(prefix="tunesmith-mutants-") as folder:
        copy = Copy(Path(folder))
        for mutant in mutants:  # a list that is out of date is told before anything is run
            mutant.applied(copy.path(mutant).read_text(encoding="utf-8"))
        tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
        code, seconds, said = copy.run(tests)
        if code != GREEN:
            print(said)
            print(f"the tests fail without any mutant ({code})")
            return 1
        print(f"{len(tests)} tests pass without a mutant ({seconds:.0f} s)", flush=True)
        num_killed = 0
        for mutant in mutants:
            verdict, seconds = copy.verdict(mutant)
            num_killed += verdict == "killed"
            print(f"{verdict:9} {seconds:4.0f} s  {mutant.name}", flush=True)
    print(f"{num_killed} of {len(mutants)} killed")
    return 0 if num_killed == len(mutants) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, SyntaxError) as error:
        sys.exit(str(error))
