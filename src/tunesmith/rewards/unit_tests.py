"""The code in a completion passes its tests."""

from __future__ import annotations

import ast
import functools
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from tunesmith.errors import ConfigError
from tunesmith.rewards import sandbox
from tunesmith.rewards.completions import Reward, column_of, fenced, text_of


def unit_tests(
    *,
    column: str = "tests",
    all_or_nothing: bool = False,
    time_s: Annotated[float, Field(gt=0, le=3600)] = 5.0,
    memory_gib: Annotated[float, Field(ge=0.0625)] = 0.5,
    num_parallel: Annotated[int, Field(ge=1)] | None = None,
    allow_weak_sandbox: bool = False,
) -> Reward:
    """A reward: the share of a row's tests that the completion's Python code passes, run in the sandbox.

    The code is the last fenced block of Python, else the last fenced block, else the whole completion. A list
    of tests has one test an item, which passes when it runs to its end; a text has one test an `assert` at
    its top level, or without any is one test as a whole. `all_or_nothing` gives 1 when all pass, else 0. None
    for a row without tests, with tests that are no Python, or when the machine couldn't start a program.

    Raises:
        ConfigError: this machine lacks a wall of the sandbox, and `allow_weak_sandbox` isn't set.
    """
    if not allow_weak_sandbox and (missing := sandbox.missing_walls()):
        raise ConfigError(
            f"code that a model wrote can't be kept here from {', '.join(missing)}",
            where="reward unit_tests",
            fix="train in a machine or container with nothing to lose, and set allow_weak_sandbox: true",
        )
    limits = sandbox.Limits(time_s, memory_gib)

    def reward(completions: list[Any], **kwargs: Any) -> list[float | None]:
        tests = [_tests(value) for value in column_of(kwargs, column, "unit_tests")]
        programs = {
            index: (_code(text_of(completion)), tests[index])
            for index, completion in enumerate(completions)
            if tests[index]
        }
        outcomes = sandbox.run_all(list(programs.values()), limits, num_parallel)
        rewards: list[float | None] = [None] * len(completions)
        for index, outcome in zip(programs, outcomes, strict=True):
            share = outcome.num_passed / outcome.num_tests
            if outcome.end != "unstarted":
                rewards[index] = float(share == 1) if all_or_nothing else share
        return rewards

    return reward


def _code(text: str) -> str:
    block = fenced(text, ("python", "py", "python3"))
    return text if block is None else block


def _tests(value: Any) -> tuple[sandbox.Test, ...]:
    """The tests of a row; none when there are none, or one is no Python."""
    if isinstance(value, str):
        return _statements(value)
    if not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        return ()
    items = [each for each in value if each.strip()]
    return tuple((each, True) for each in items) if all(map(_statements, items)) else ()


@functools.lru_cache(maxsize=4096)
def _statements(source: str) -> tuple[sandbox.Test, ...]:
    """A text of tests, statement by statement; each assert counts, or without any all of it as one."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    if not any(isinstance(node, ast.Assert) for node in tree.body):
        return ((source, True),) if tree.body else ()
    return tuple((ast.unparse(node), isinstance(node, ast.Assert)) for node in tree.body)
