"""reasoning-gym: tasks named by a string, their rows, and the reward that asks a task's own scorer.

https://github.com/open-thought/reasoning-gym makes entries of 106 kinds of task from a seed. Data and reward
share what names an entry: the task, its settings and a number. The package itself works in a child process
(`reasoning_gym_worker` says why).
"""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from tunesmith.errors import DataError, MissingPackageError
from tunesmith.rewards.completions import columns_said

PREFIX = "reasoning_gym:"
DEFAULTS: dict[str, Any] = {"size": 1000, "seed": 42}
# Judging takes 0.1 s at most for honest answers; one such as 9**9**9 would take hours.
SCORE_LIMIT_S = 5.0
_WORKER = "tunesmith.rewards.reasoning_gym_worker"
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LOCK = threading.Lock()


# --- naming a task ---------------------------------------------------------------------------------------


def parse_source(text: str) -> tuple[str, dict[str, Any]]:
    """Task and settings that `reasoning_gym:TASK,key=value,...` names, size and seed among them.

    A value is a whole number, a number, true or false, text, or with semicolons a list of these.

    Raises:
        DataError: no task is named, or a part is no key=value, or stands twice.
    """
    task, *parts = (part.strip() for part in text.removeprefix(PREFIX).split(","))
    if not task or "=" in task:
        raise DataError(
            f"{text!r} names no task",
            where=text,
            fix=f"write {PREFIX}chain_sum or {PREFIX}chain_sum,size=2000",
        )
    given: dict[str, Any] = {}
    for part in parts:
        key, equals, value = (each.strip() for each in part.partition("="))
        if not (key and equals and value) or key in given:
            said = f"gives {key} twice" if key in given else f"has {part!r}, which is no key=value"
            raise DataError(
                f"{text!r} {said}", where=text, fix=f"write {PREFIX}{task},size=2000,seed=7; lists as a;b;c"
            )
        items = [_scalar(item.strip()) for item in value.split(";") if item.strip()]
        given[key] = items if ";" in value else items[0]
    return task, {**DEFAULTS, **given}


def _scalar(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def check_task(task: str, settings: dict[str, Any], where: str) -> None:
    """Make sure that the task exists and takes these settings.

    Raises:
        DataError: it doesn't; the sentence names the nearest task, or the settings that there are.
        MissingPackageError: reasoning-gym is not installed.
    """
    _asked({"op": "check", "task": task, "settings": settings}, where)


def rows_of(task: str, settings: dict[str, Any], entries: Sequence[int], where: str) -> list[dict[str, Any]]:
    """The rows of these entries (0-based): `question`, `answer`, `task`, `entry`, `settings` (JSON text).

    `answer` is "" where the task has many right answers and knows none.

    Raises:
        DataError: an entry can't be made.
    """
    request = {"op": "rows", "task": task, "settings": settings, "entries": list(entries)}
    told = settings_text(settings)
    return [
        {"question": question, "answer": answer, "task": task, "entry": entry, "settings": told}
        for entry, (question, answer) in zip(entries, _asked(request, where), strict=True)
    ]


def settings_text(settings: dict[str, Any]) -> str:
    """The settings as rows keep them, with the version that made the rows: another makes other entries."""
    return json.dumps({"reasoning_gym": version(), **settings})


def version(where: str = "reasoning_gym") -> str:
    """The version of reasoning-gym that is installed; `where` names what asks for it.

    Raises:
        MissingPackageError: none is.
    """
    if importlib.util.find_spec("reasoning_gym") is None:
        raise MissingPackageError(
            "reasoning-gym is not installed", where=where, fix="pip install 'tunesmith[reasoning-gym]'"
        )
    return _version()


@functools.cache
def _version() -> str:
    return importlib.metadata.version("reasoning-gym")  # its `__version__` is not kept up to date


# --- the reward ------------------------------------------------------------------------------------------


def reasoning_gym_score(
    completions: Sequence[Any],
    task: Sequence[str | None] | None = None,
    entry: Sequence[int | None] | None = None,
    settings: Sequence[str | None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """The task's own score of each completion's answer, 0 to 1; None for a row of another data set.

    The answer is what stands in the last `<answer>` tags, or without them all of the completion. An answer on
    which the scorer fails or hangs gets 0.

    Raises:
        DataError: the data are none of reasoning-gym's, an entry can't be made again, or the scorer fails on
            the right answer too.
        MissingPackageError: reasoning-gym is not installed.
    """
    if task is None or entry is None or settings is None:
        raise DataError(
            "reasoning_gym judges only rows that reasoning-gym made, with columns task, entry and settings",
            where=columns_said(kwargs),
            fix=f"use dataset: {PREFIX}TASK, or a reward such as numeric_answer or exact_answer",
        )
    return [
        _score(_answer(completion), *row)
        for completion, row in zip(completions, zip(task, entry, settings, strict=True), strict=True)
    ]


# The name that a run's configuration and its metrics have for it.
reasoning_gym_score.__name__ = "reasoning_gym"


def _score(answer: str, task: str | None, entry: int | None, settings: str | None) -> float | None:
    if task is None or entry is None or settings is None:
        return None
    where = f"entry {entry} of {task}"
    request = {"op": "score", "task": task, "settings": _current(settings, where), "entry": entry}
    request["limit_s"] = SCORE_LIMIT_S
    reply = _ask({**request, "answer": answer}, where)
    if _is_answers_fault(reply):
        right = _ask(request, where)  # without an answer: the right one is judged
        if _is_answers_fault(right):
            said = right.get("raised", "it takes too long, or ends its process")
            raise DataError(
                f"the scorer of {task} fails on the right answer too: {said}",
                where=where,
                fix="leave this task out: its scorer needs other packages, or has a fault",
            )
        return 0.0
    return float(_value_of(reply, where))


def _is_answers_fault(reply: dict[str, Any]) -> bool:
    """True when the scorer failed, rather than gave a score or never had an entry to judge."""
    return bool(reply.get("built")) and "value" not in reply


def _answer(completion: Any) -> str:
    text = completion if isinstance(completion, str) else (completion[-1]["content"] if completion else "")
    tagged = _TAGGED.findall(text or "")
    return (tagged[-1] if tagged else text or "").strip()


@functools.lru_cache(maxsize=256)
def _read(settings: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(settings)
    return found


def _current(settings: str, where: str) -> dict[str, Any]:
    try:
        given = _read(settings)
        made_with = given["reasoning_gym"]
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"the column settings holds {settings[:80]!r}, which no row of reasoning_gym has",
            where=where,
            fix=f"make the rows with dataset: {PREFIX}TASK",
        ) from None
    if made_with != (here := version(where)):
        raise DataError(
            f"the rows were made with reasoning-gym {made_with}; {here}, which is here, may differ",
            where=where,
            fix=f"make the rows again, or pip install reasoning-gym=={made_with}",
        )
    return {key: value for key, value in given.items() if key != "reasoning_gym"}


# --- the child process -----------------------------------------------------------------------------------


class _Child:
    """The worker of this process: started when first asked, again after it was lost."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        # -P: a `reasoning_gym` in the current folder is not the package. Its own session: Ctrl-C is for us.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {_WORKER} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
            start_new_session=True,
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply, with `built` true once the entry was made; `lost` true when the worker ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        reply: dict[str, Any] = {}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                reply |= json.loads(line)
                if reply.keys() - {"built"}:
                    return reply
        except BrokenPipeError:
            pass
        self.stop()
        return {**reply, "lost": True}

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


_children: list[_Child] = []


def _ask(request: dict[str, Any], where: str) -> dict[str, Any]:
    version(where)  # raises where the package is missing
    with _LOCK:
        if not _children or _children[0].owner != os.getpid():  # a fork must not read its parent's replies
            _children[:] = [_Child()]
        try:
            reply = _children[0].ask(request)
        except BaseException:  # Ctrl-C, say: a reply that nobody read would be taken for the next one's
            _children.pop().stop()
            raise
        if reply.get("lost"):
            _children.clear()
        return reply


@atexit.register
def _stop() -> None:
    while _children and _children[0].owner == os.getpid():
        _children.pop().stop()


def _asked(request: dict[str, Any], where: str) -> Any:
    return _value_of(_ask(request, where), where)


def _value_of(reply: dict[str, Any], where: str) -> Any:
    if "value" in reply:
        return reply["value"]
    if "refused" in reply:
        raise DataError(reply["refused"], where=where, fix=reply["fix"])
    said = f"failed: {reply['raised']}" if "raised" in reply else "took too long, or ended its process"
    raise DataError(
        f"making the task's entries {said}", where=where, fix="change the task's settings, or the task"
    )
