"""The rewards that come with Tunesmith: their names, what each is for, and how one is made from arguments."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError, validate_call

from tunesmith.errors import ConfigError

# What makes each (module:function, imported when it is asked for), and a line on what it rewards.
_LIBRARY = {
    "exact_answer": ("exact_answer:exact_answer", "the answer is the reference, case and punctuation aside"),
    "numeric_answer": ("numeric_answer:numeric_answer", "the number in the answer is the reference's"),
    "json_schema": ("json_schema:json_schema", "the answer is JSON that is valid against a schema"),
    "regex": ("regex:regex", "the answer matches a pattern"),
    "format": ("format:format_", "the answer is <think>...</think><answer>...</answer> and nothing else"),
    "length": ("length:length", "the answer has the right number of tokens"),
    "unit_tests": ("unit_tests:unit_tests", "the code in the answer passes its tests, run in a sandbox"),
    "reasoning_gym": ("library:_reasoning_gym", "the score that a task of reasoning-gym gives the answer"),
}
_JUDGED_BY_REFERENCE = ("exact_answer", "numeric_answer")


def names() -> list[str]:
    """The names of the library's rewards."""
    return list(_LIBRARY)


def descriptions() -> dict[str, str]:
    """A line on each reward of the library, by its name."""
    return {name: line for name, (_, line) in _LIBRARY.items()}


def make(name: str, args: dict[str, Any]) -> Callable[..., Any]:
    """The library's reward `name` with these arguments; its `__name__` is `name`, for TRL to log it by.

    Raises:
        ConfigError: an argument is unknown, missing or of a wrong kind.
        MissingPackageError: it needs a package that isn't installed.
    """
    module, _, attribute = _LIBRARY[name][0].partition(":")
    maker = getattr(importlib.import_module(f"tunesmith.rewards.{module}"), attribute)
    try:
        reward: Callable[..., Any] = validate_call(maker)(**args)
    except ValidationError as error:
        raise _refusal(name, maker, error) from None
    reward.__name__ = name
    if name in _JUDGED_BY_REFERENCE:  # the check before training asks which column holds the right answers
        reward.reference_column = args.get("column")  # type: ignore[attr-defined]
    return reward


def _refusal(name: str, maker: Callable[..., Any], error: ValidationError) -> ConfigError:
    """The first thing that is wrong with the arguments, as a sentence."""
    takes = list(inspect.signature(maker).parameters)
    first = error.errors(include_url=False)[0]
    argument = ".".join(map(str, first["loc"]))
    fix = f"{name} takes {', '.join(takes)}" if takes else f"{name} takes no arguments"
    if first["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(argument, takes, n=1)
        said = f"{name} has no argument {argument!r}" + (f"; did you mean {near[0]}?" if near else "")
    elif first["type"].startswith("missing"):
        said = f"{name} needs the argument {argument}"
        fix = f"write {{function: {name}, args: {{{argument}: ...}}}} in RUN.yaml; {fix}"
    else:
        message = first["msg"][0].lower() + first["msg"][1:]
        said = f"{argument} of {name} is {first['input']!r}: {message}"
    return ConfigError(said, where=f"reward {name}", fix=fix)


def _reasoning_gym() -> Callable[..., Any]:
    from tunesmith.rewards.reasoning_gym import reasoning_gym_score

    return reasoning_gym_score
