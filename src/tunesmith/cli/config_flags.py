"""One flag for every field of RunConfig, made from the fields themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from tunesmith.config.defaults import described
from tunesmith.config.layers import TABLES
from tunesmith.config.run_config import RunConfig

# `method` is an argument of the verb, tables are reached with --set trl.KEY=VALUE.
_NOT_FLAGS = frozenset({"method", *TABLES})


def with_config_flags(function: Callable[..., None]) -> Callable[..., None]:
    """`function` with its `**flags` replaced by an option for every field, None where not given."""
    own = [
        parameter
        for parameter in inspect.signature(function, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    flags = [_flag(name) for name in RunConfig.model_fields if name not in _NOT_FLAGS]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + flags

    def command(**given: Any) -> None:
        function(**given)

    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _flag(name: str) -> inspect.Parameter:
    field = RunConfig.model_fields[name]
    extra: Any = field.json_schema_extra
    option = f"--{name.replace('_', '-')}"
    is_switch = field.annotation in (bool, bool | None)
    names = f"{option}/--no-{option.removeprefix('--')}" if is_switch else option
    default = described(name)
    if default is None and field.default not in (None, False, True, (), {}) and not field.is_required():
        default = str(field.default)
    shown = f" (default: {default})" if default else ""
    annotation: Any = Annotated[
        bool | None if is_switch else str | None,
        typer.Option(
            names,
            help=f"{field.description}{shown}",
            rich_help_panel=extra["panel"],
            show_default=False,
            metavar=None if is_switch else "VALUE",
        ),
    ]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
