"""A child process that makes reasoning-gym entries and judges answers to them, asked by JSON lines.

The package is kept out of the training process because its scorers hand a model's text to `eval` (n_queens,
spiral_matrix, binary_matrix, string_insertion) and to sympy, which evaluates too (countdown, puzzle24): an
answer may hang, end the process or reach the disk. Here a watchdog, refused system calls and a process that
can be lost stand around that. Its tasks also print, seed numpy's global generator, and six of 106 depend on
the order of Python's hashes, which PYTHONHASHSEED=0 fixes here (measured with 0.1.25).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import difflib
import enum
import faulthandler
import functools
import importlib
import json
import math
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

# The slowest entries (futoshiki, knight_swap) take half a second.
ENTRY_LIMIT_S = 60.0
# Where a task has several right answers its entries name none; its metadata may hold one of them.
_EXAMPLES = ("example_correct_answer", "example_answer", "possible_answer")
_KEPT_ENTRIES = 4096
# What no generator and no scorer needs, by the names that Python's audit hooks have for it.
_REFUSED = frozenset(
    {"os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill",
     "os.killpg", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.truncate",
     "os.link", "os.symlink", "os.putenv", "subprocess.Popen", "shutil.rmtree", "shutil.move",
     "socket.connect", "socket.bind", "socket.getaddrinfo", "pty.spawn", "webbrowser.open"}
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


class Refused(Exception):
    """A task, setting or value that doesn't exist or isn't taken: what, and what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


def serve() -> None:
    """Reply to each request on stdin with a JSON object a line on stdout, until stdin ends.

    A reply has `value`, or `refused` and `fix`, or `raised`. Before an answer is judged a line
    `{"built": true}` says that its entry was made: what ends the process after that is the answer.
    """
    with _streams() as (requests, replies):
        broken = None
        try:
            gym = Gym()
        except Exception as error:  # a dependency that is missing or broken is for the user to hear of
            broken = {"raised": f"reasoning_gym can't be imported: {_line(error)}"}
        # After the import, which may write caches of bytecode and fonts.
        sys.addaudithook(_refuse_effects)
        for line in requests:
            try:
                reply = broken or {"value": _value(gym, json.loads(line), replies)}
            except Refused as error:
                reply = {"refused": error.message, "fix": error.fix}
            except BaseException as error:  # an evaluated answer may raise SystemExit: reported, as any other
                reply = {"raised": _line(error)}
            finally:
                faulthandler.cancel_dump_traceback_later()
            _send(replies, reply)


@contextlib.contextmanager
def _streams() -> Iterator[tuple[TextIO, TextIO]]:
    """The pipes to the parent, out of the reach of `print` and `input`."""
    with contextlib.ExitStack() as stack:
        requests = stack.enter_context(os.fdopen(os.dup(0), encoding="utf-8"))
        replies = stack.enter_context(os.fdopen(os.dup(1), "w", encoding="utf-8"))
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        yield requests, replies


def _value(gym: Gym, request: dict[str, Any], replies: TextIO) -> Any:
    task, settings = request["task"], request["settings"]
    _end_after(ENTRY_LIMIT_S)
    if request["op"] == "check":
        return gym.check(task, settings)
    if request["op"] == "rows":
        return [gym.row(task, settings, index) for index in request["entries"]]
    dataset, entry = gym.entry(task, settings, request["entry"])
    answer = request["answer"] if "answer" in request else right_answer(dataset, entry)
    _send(replies, {"built": True})
    _end_after(request["limit_s"])
    score = float(dataset.score_answer(answer, entry))
    if not math.isfinite(score):
        raise ValueError(f"the score is {score}")
    return score


def _send(replies: TextIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _end_after(seconds: float) -> None:
    """End the process after `seconds`, even where a long computation in C keeps all signals waiting."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=_nowhere())


@functools.cache
def _nowhere() -> TextIO:
    # Kept open for the life of the process: faulthandler writes to its descriptor.
    return Path(os.devnull).open("w", encoding="utf-8")


def _refuse_effects(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise where evaluated text would start a process, open a connection or change a file."""
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
    if event in _REFUSED or (writes and arguments[0] != os.devnull):
        raise PermissionError(f"{event} is not for a task of reasoning_gym")


def _line(error: BaseException) -> str:
    said = str(error).strip().split("\n")[0][:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


class Gym:
    """The tasks of reasoning_gym, their data sets and entries kept."""

    def __init__(self) -> None:
        self._tasks: dict[str, Any] = importlib.import_module("reasoning_gym.factory").DATASETS
        self._datasets: dict[str, Any] = {}
        self._entries: dict[tuple[str, int], Any] = {}

    def check(self, task: str, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings as the task's configuration has them.

        Raises:
            Refused: there is no such task or setting, or a value is not taken.
        """
        if task not in self._tasks:
            near = difflib.get_close_matches(task, self._tasks, 1, 0.0)
            raise Refused(
                f"reasoning_gym has no task {task!r} among its {len(self._tasks)}",
                f"did you mean {near[0]}? docs/reasoning_gym.md says how to list all",
            )
        self._dataset(task, settings)
        return settings

    def row(self, task: str, settings: dict[str, Any], index: int) -> tuple[str, str]:
        """Question and answer of an entry; the answer is "" where the task knows none that scores 1."""
        dataset, entry = self.entry(task, settings, index)
        return str(entry["question"]), right_answer(dataset, entry) or ""

    def entry(self, task: str, settings: dict[str, Any], index: int) -> tuple[Any, dict[str, Any]]:
        """The data set and its entry `index` (0-based), the same in whatever order entries are asked for."""
        _end_after(ENTRY_LIMIT_S)
        dataset = self._dataset(task, settings)
        key = (_key(task, settings), index)
        if key not in self._entries:
            # Code snippets of codeio draw from the global generators.
            random.seed(f"{settings.get('seed')} {index}")
            if "numpy" in sys.modules:
                sys.modules["numpy"].random.seed(index)
            if len(self._entries) >= _KEPT_ENTRIES:
                del self._entries[next(iter(self._entries))]
            self._entries[key] = dataset[index]
        return dataset, self._entries[key]

    def _dataset(self, task: str, settings: dict[str, Any]) -> Any:
        key = _key(task, settings)
        if key not in self._datasets:
            build, config = self._tasks[task]
            defaults = {each.name: _default(each) for each in dataclasses.fields(config)}
            typed = {name: _typed(task, name, value, defaults) for name, value in settings.items()}
            random.seed(0)
            try:
                self._datasets[key] = build(config=config(**typed))  # which validates its configuration
            except Exception as error:  # configurations assert, compare and raise as they like
                raise _refusal(task, settings, error) from error
        return self._datasets[key]


def right_answer(dataset: Any, entry: dict[str, Any]) -> str | None:
    """The entry's answer, or an example in its metadata that scores 1; None where there is neither."""
    if entry["answer"] is not None:
        return str(entry["answer"])
    for key in _EXAMPLES:
        example = entry["metadata"].get(key)
        if example is not None:
            text = example if isinstance(example, str) else json.dumps(example)
            with contextlib.suppress(Exception):  # an example that can't be judged is no answer
                if dataset.score_answer(text, entry) == 1.0:
                    return text
    return None


def _refusal(task: str, settings: dict[str, Any], error: Exception) -> Refused:
    given = [f"{name}={_said(value)}" for name, value in settings.items() if name not in ("size", "seed")]
    fix = "change that setting, or leave it out"
    if task == "composite":
        fix = "name its tasks as a mixture: `dataset:` in RUN.yaml takes a list of them"
    why = str(error).strip() or type(error).__name__
    return Refused(f"{task} refuses {', '.join(given) or 'its default settings'}: {why}", fix)


def _key(task: str, settings: dict[str, Any]) -> str:
    return json.dumps([task, settings], sort_keys=True)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def _typed(task: str, name: str, value: Any, defaults: dict[str, Any]) -> Any:
    """A value in the type that the setting's default has."""
    if name not in defaults:
        near = difflib.get_close_matches(name, defaults, 1)
        raise Refused(
            f"{task} has no setting {name!r}; it has {', '.join(sorted(defaults))}",
            f"did you mean {near[0]}?" if near else "use one of these",
        )
    if name in ("size", "seed"):
        low = 1 if name == "size" else 0
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise Refused(
                f"{name}={_said(value)} should be a whole number from {low} on",
                f"write {name}={1000 if name == 'size' else 42}",
            )
        return value
    try:
        return _like(defaults[name], value)
    except ValueError as error:
        fix = f"leave it out for {task}'s default, {_said(defaults[name])}"
        raise Refused(f"{name}={_said(value)} should be {error}", fix) from error


def _like(example: Any, value: Any) -> Any:
    """`value` in the type of `example`; ValueError says what it should be."""
    if isinstance(example, enum.Enum):
        members = {each.value: each for each in type(example)}
        if value not in members:
            raise ValueError(f"one of {', '.join(map(str, members))}")
        return members[value]
    if isinstance(example, list | tuple):
        items = value if isinstance(value, list) else [value]
        return type(example)(_like(example[0], each) if example else each for each in items)
    if isinstance(example, str):
        return value if isinstance(value, str) else json.dumps(value)
    if isinstance(example, bool) and not isinstance(value, bool):
        raise ValueError("true or false")
    if isinstance(example, int | float) and not isinstance(example, bool):
        kinds = int if isinstance(example, int) else int | float
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ValueError("a whole number" if isinstance(example, int) else "a number")
    if isinstance(example, datetime.time | datetime.date):
        try:
            return type(example).fromisoformat(str(value))
        except ValueError:
            raise ValueError(f"written as {example.isoformat()}") from None
    return value


def _said(value: Any) -> str:
    """A value as the source string spells it."""
    if isinstance(value, list | tuple):
        return ";".join(map(_said, value))
    if isinstance(value, enum.Enum):
        return _said(value.value)
    if isinstance(value, datetime.time | datetime.date):
        return value.isoformat()
    return value if isinstance(value, str) else json.dumps(value, default=str)
