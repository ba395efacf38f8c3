"""The places a setting can stand in (RUN.yaml, environment, flags), each read into one flat layer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tunesmith.config.run_config import RunConfig
from tunesmith.errors import ConfigError

if TYPE_CHECKING:
    from ruamel.yaml.comments import CommentedMap

ENV_PREFIX = "TUNESMITH_"
# Keys of RUN.yaml that hold keys of their own.
TABLES = ("trl", "budget", "hub")
# Variables of Tunesmith that are no settings of a run.
RESERVED_ENV = frozenset({"TUNESMITH_CACHE", "TUNESMITH_DEBUG"})
# What to do about a fault, by a part of ruamel's words for it.
_YAML_ADVICE = {
    "duplicate key": "keep one of the two lines",
    "mapping values are not allowed": "put text with a colon in quotes, and indent the keys of a table alike",
    "',' or": "close the bracket that stands open",
    "unexpected end of stream": "close the quote that stands open",
    "'\\t'": "indent with spaces, not with tabs",
    "another document": "take the line --- out",
    "cannot start any token": "put the text in quotes",
    "undefined alias": "put the text in quotes",
}


class Setting(NamedTuple):
    """A value and the place it stands in, such as `run.yaml:12` or `flag --max-steps`."""

    value: Any
    origin: str


Layer = dict[str, Setting]


def yaml_layer(path: Path, method: str) -> Layer:
    """Settings of a RUN.yaml for `method`, keyed by field or by `trl.KEY`.

    Raises:
        ConfigError: the file is missing, no YAML, holds a key twice, or is no table at the top.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import MarkedYAMLError

    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"there is no file {path}",
            where=str(path),
            fix=f"tunesmith init {method} --out {path} writes one to start from",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} can't be read: {error}",
            where=str(path),
            fix="give a text file in UTF-8 that you may read",
        ) from None
    except ValueError:
        raise ConfigError(
            f"{str(path)!r} is no name of a file", where="command line", fix="give the name of a RUN.yaml"
        ) from None
    try:
        document = YAML(typ="rt").load(text)
        if document is None:
            return {}
        if isinstance(document, CommentedMap):
            return _layer_of(document, path)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem or error.context).splitlines()[0]
        raise ConfigError(
            f"{path} is not valid YAML: {problem}",
            where=f"{path}:{mark.line + 1 if mark else 1}",
            fix=_yaml_advice(problem),
        ) from None
    except RecursionError:
        raise ConfigError(
            f"{path} is nested too deeply", where=str(path), fix="close the brackets that stand open"
        ) from None
    except Exception as error:  # ruamel raises many kinds on odd values and tags (test_config.py)
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{path} is not valid YAML: {problem}",
            where=str(path),
            fix="put dates, and other odd text, in quotes",
        ) from None
    raise ConfigError(
        f"{path} should hold keys and values, like `model: ...`",
        where=str(path),
        fix=f"tunesmith init {method} --out FILE writes one to start from",
    )


def _yaml_advice(problem: str) -> str:
    return next(
        (advice for part, advice in _YAML_ADVICE.items() if part in problem),
        "indent the keys of a table alike",
    )


def _layer_of(document: CommentedMap, path: Path) -> Layer:
    layer: Layer = {}
    for key, value in document.items():
        if key in TABLES and value is None:  # a table whose lines are all commented out
            continue
        if key in TABLES and isinstance(value, Mapping):
            for name, inner in value.items():
                layer[f"{key}.{name}"] = Setting(_plain(inner), f"{path}:{_line_of(value, name)}")
        else:
            layer[str(key)] = Setting(_plain(value), f"{path}:{_line_of(document, key)}")
    return layer


def _line_of(table: Any, key: Any) -> int:
    """The line of a key; of the table where the key came in by a merge (`<<: *other`)."""
    place = (table.lc.data or {}).get(key)
    return int(place[0] if place else table.lc.line) + 1


def env_layer(environ: Mapping[str, str] | None = None) -> Layer:
    """Settings of `TUNESMITH_*` variables; `TUNESMITH_TRL__KEY` stands for `trl.KEY`."""
    layer: Layer = {}
    for name, value in (os.environ if environ is None else environ).items():
        if not name.startswith(ENV_PREFIX) or name in RESERVED_ENV:
            continue
        key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
        layer[key] = Setting(parse_scalar(value) if key.startswith("trl.") else value, f"environment {name}")
    return layer


def flags_layer(flags: Mapping[str, Any]) -> Layer:
    """Settings given as flags of the command line; None means not given."""
    return {
        key: Setting(value, "argument METHOD" if key == "method" else f"flag --{key.replace('_', '-')}")
        for key, value in flags.items()
        if value is not None
    }


def set_layer(assignments: Sequence[str]) -> Layer:
    """Settings given as `--set key=value`.

    Raises:
        ConfigError: an assignment has no `=`, or a key is set twice to different values.
    """
    layer: Layer = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(
                f"--set {assignment!r} should be key=value",
                where="flag --set",
                fix="write it like --set trl.weight_decay=0.01",
            )
        value = parse_scalar(text) if key.startswith("trl.") or key not in RunConfig.model_fields else text
        if key in layer and layer[key].value != value:
            raise ConfigError(
                f"--set gives {key} twice, with different values", where="flag --set", fix="keep one of them"
            )
        layer[key] = Setting(value, f"flag --set {key}")
    return layer


def parse_scalar(text: str) -> Any:
    """The value that `text` has in YAML: 1e-4 is a number, true a truth value, [a, b] a list."""
    from ruamel.yaml import YAML

    try:
        return _plain(YAML(typ="safe", pure=True).load(text))
    except Exception:  # ruamel raises many kinds on odd text (test_config.py): then it is just text
        return text


def _plain(value: Any) -> Any:
    """`value` without ruamel's types, so that pydantic and JSON see only standard ones."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    for plain in (int, float, str):
        if isinstance(value, plain):
            return plain(value)
    return str(value)  # a date, which people write as a name, or a value with a tag
