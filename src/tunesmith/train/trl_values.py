"""The values of the `trl:` table against what TRL itself says of its arguments, before anything is loaded.

No argument is named here. Types are the annotations of TRL's config class. Texts are checked where TRL lists
them: as an enum, in `choices` or in the help of a field, as bullets in the documentation of the class, or in
comparisons after which its trainer raises. What TRL doesn't say is not refused.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.config.layers import parse_scalar
from tunesmith.errors import ConfigError
from tunesmith.train.trl_dispatch import Compared, compared_texts

_ONE = {float: "a number", int: "a whole number", bool: "true or false", str: "a text", dict: "a table"}
_SEVERAL = {float: "numbers", int: "whole numbers", str: "texts"}
_NAME = r"[`'\"]+([\w-]+)[`'\"]+(?:\s*\([^()]*\))?"
_LIST = re.compile(
    r"(?:(?:possible|supported|allowed|valid) (?:values|options) are|one of|options|either):?\s+"
    rf"({_NAME}(?:(?:,? (?:and|or)|,)\s+{_NAME})+)(?:\.|$)",
    re.IGNORECASE,
)
# More names than these are no help in a sentence.
_MANY = 20


class _Fault(NamedTuple):
    message: str
    fix: str


def check_trl_values(given: Mapping[str, Any], config_class: type, trainer_class: type) -> None:
    """Make sure that TRL can take every value of a `trl:` table, whose keys are known to be its arguments.

    Raises:
        ConfigError: it can't take one or more; says what each may be.
    """
    hints = _hints(config_class)
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    faults: dict[str, _Fault] = {}
    for key, value in given.items():
        if key in hints:
            fault = _Argument(fields[key], hints[key], config_class, trainer_class).fault(value)
            faults |= {key: fault} if fault else {}
    if faults:
        raise ConfigError(
            "; ".join(f"trl.{key}: {fault.message}" for key, fault in faults.items()),
            where=", ".join(f"trl.{key}" for key in faults),
            fix="; ".join(dict.fromkeys(fault.fix for fault in faults.values())),
        )


def _hints(config_class: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(config_class)
    except (NameError, TypeError, AttributeError):  # an annotation that can't be read outside of its module
        return {}


class _Argument(NamedTuple):
    """An argument of TRL's config class."""

    field: dataclasses.Field[Any]
    hint: Any
    config_class: type
    trainer_class: type

    def fault(self, value: Any) -> _Fault | None:
        """What is wrong with `value`, or None."""
        texts = value if isinstance(value, list) and self.hint == list[str] else [value]
        if _takes_texts(self.hint) and all(isinstance(each, str | bool) for each in texts):
            allowed = self._allowed()
            wrong = [each for each in texts if str(each) not in allowed]
            if not allowed or {*map(str, wrong)} <= self._compared().texts:
                return None
            return self._unknown(wrong[0], allowed)
        if (value is None and self._default() is None) or _fits(self.hint, value):
            return None
        return self._wrong_type(value)

    def _allowed(self) -> list[str]:
        """The texts that TRL names as the argument's values; empty where it names none."""
        for each in typing.get_args(self.hint):
            if isinstance(each, type) and issubclass(each, Enum):
                return [str(member.value) for member in each]
        choices = self.field.metadata.get("choices")
        if choices:
            return [str(each) for each in choices]
        listed = _LIST.search(self.field.metadata.get("help", ""))
        for names in (re.findall(_NAME, listed[1]) if listed else [], self._bullets()):
            if self._holds_default(names):
                return list(dict.fromkeys(names))
        compared = self._compared()
        return sorted(compared.texts) if compared.raises and self._holds_default(compared.texts) else []

    def _bullets(self) -> list[str]:
        for each in self.config_class.__mro__:
            start = re.search(rf"^( +){self.field.name} \(.*\n", each.__doc__ or "", re.MULTILINE)
            if start:
                rest = (each.__doc__ or "")[start.end() :]
                section = re.split(rf"^{start[1]}[\w>]", rest, maxsplit=1, flags=re.MULTILINE)[0]
                heads = re.findall(r"^ +- ([^:\n]+):", section, re.MULTILINE)
                return [name for head in heads for name in re.findall(r"`[\"']?([\w-]+)[\"']?`", head)]
        return []

    def _holds_default(self, names: typing.Collection[str]) -> bool:
        """Whether `names` are the argument's values: a list of something else would lack its default."""
        default = self._default()
        defaults = default if isinstance(default, list) else [default]
        return bool(defaults) and all(isinstance(each, str) and each in names for each in defaults)

    def _compared(self) -> Compared:
        return compared_texts(self.trainer_class, self.field.name)

    def _default(self) -> Any:
        factory = self.field.default_factory
        value = self.field.default if factory is dataclasses.MISSING else factory()
        return value.value if isinstance(value, Enum) else value

    def _unknown(self, value: Any, allowed: list[str]) -> _Fault:
        typed, names = str(value).lower(), ", ".join(allowed)
        is_short = len(allowed) <= _MANY
        said = names if is_short else f"the {len(allowed)} values that TRL knows"
        near = difflib.get_close_matches(typed, allowed, n=1, cutoff=0.5 if is_short else 0.8)
        alike = [name for name in allowed if name.startswith(typed[:4])]
        if near:
            fix = f"did you mean {near[0]}?"
        elif alike and not is_short:
            fix = f"did you mean one of {', '.join(alike)}?"
        else:
            fix = "take one of these" if is_short else f"take one of {names}"
        return _Fault(f"{_shown(value)} is none of {said}", fix)

    def _wrong_type(self, value: Any) -> _Fault:
        words = _described(self.hint)
        if isinstance(value, str) and _fits(self.hint, parse_scalar(value)):
            fix = "write it without quotes"
        else:
            default = self._default()
            fix = f"give {words}, or leave it out" + (
                "" if default is None else f" for TRL's default, {_shown(default)}"
            )
        return _Fault(f"{_shown(value)} should be {words}", fix)


def _takes_texts(hint: Any) -> bool:
    """Whether an argument is a text, or a list of texts, and nothing else."""
    parts = set(typing.get_args(hint) or [hint]) - {types.NoneType} if hint != list[str] else {str}
    return all(each is str or (isinstance(each, type) and issubclass(each, Enum)) for each in parts)


def _fits(hint: Any, value: Any) -> bool:
    """Whether `value`, as YAML has it, is what an annotation says; True for one that is not known here."""
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if dict in map(_plain, inner) and isinstance(value, str):  # JSON, or the name of a file with it
            return value.startswith("{") or Path(value).is_file()
        return any(_fits(each, value) for each in inner)
    if origin is typing.Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if origin in (None, types.NoneType):
        return value is None
    if origin is bool:
        return isinstance(value, bool) or value in (0, 1)
    if origin in (int, float):
        return isinstance(value, int if origin is int else int | float) and not isinstance(value, bool)
    if origin is list:
        return isinstance(value, list) and all(_fits(each, item) for each in inner for item in value)
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(inner) and all(map(_fits, inner, value))
    return isinstance(value, origin) if origin in (str, dict) else True


def _described(hint: Any) -> str:
    """An annotation in words, such as `a number or a list of texts`."""
    origin, inner = _plain(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [each for each in inner if each is not types.NoneType]
        if dict in map(_plain, parts):
            return "a table, or the name of a JSON file with one"
        return " or ".join(dict.fromkeys(map(_described, parts)))
    if origin in (list, tuple):
        several = _SEVERAL.get(inner[0] if inner else None, "values")
        return f"a list of {several}" if origin is list else f"a list of {len(inner)} {several}"
    if origin is typing.Literal:
        return " or ".join(map(_shown, inner))
    return _ONE.get(origin, "a text")


def _plain(hint: Any) -> Any:
    return typing.get_origin(hint) or hint


def _shown(value: Any) -> str:
    """A value as one writes it in RUN.yaml."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
