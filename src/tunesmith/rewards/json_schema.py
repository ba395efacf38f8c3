"""The completion is JSON, and as a schema says."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tunesmith.errors import ConfigError, DataError, MissingPackageError
from tunesmith.rewards.completions import Reward, column_of, fenced, text_of

_WHERE = "reward json_schema"


def json_schema(
    *,
    schema: dict[str, Any] | None = None,
    schema_path: str | None = None,
    column: str | None = None,
    fence: bool = True,
    parses: Annotated[float, Field(ge=0, le=1)] = 0.2,
) -> Reward:
    """A reward: 1 for JSON that is valid against the schema, `parses` for other JSON, 0 for what is none.

    The schema stands in the configuration, in a file, or in a column (a table or its JSON text), one of the
    three. With `fence` the JSON may stand in a fenced block, of which the last counts. `$ref` reaches no
    further than the schema itself. None for a row whose schema can't be used.

    Raises:
        ConfigError: not one schema is given, or it is none.
        MissingPackageError: jsonschema isn't installed.
    """
    given = [name for name, value in (("schema", schema), ("schema_path", schema_path), ("column", column))
             if value is not None]  # fmt: skip
    if len(given) != 1:
        said = f"takes one of {', '.join(given)}" if given else "needs schema, schema_path or column"
        raise ConfigError(f"json_schema {said}", where=_WHERE, fix="write args: {schema_path: schema.json}")
    _package()
    fixed = None
    if column is None:
        text = json.dumps(schema) if schema_path is None else _file(schema_path)
        fixed = _validator(text)
        if isinstance(fixed, str):
            where = schema_path or f"{_WHERE}, schema"
            raise ConfigError(f"that is no JSON schema: {fixed}", where=where, fix="mend the schema")

    def score(text: str, validator: Any) -> float | None:
        if isinstance(validator, str):
            return None
        block = fenced(text, ("json", "jsonc", "json5")) if fence else None
        value = _parsed(text if block is None else block)
        if value is _NOTHING:
            return 0.0
        try:
            return 1.0 if validator.is_valid(value) else parses
        except RecursionError:  # it is nested deeper than Python goes
            return parses
        except importlib.import_module("referencing.exceptions").Unresolvable as error:
            raise DataError(
                f"the schema refers to {error.ref}, which is not in it", where=_WHERE, fix="mend the schema"
            ) from None

    def reward(completions: list[Any], **kwargs: Any) -> list[float | None]:
        texts = [text_of(completion) for completion in completions]
        if column is None:
            return [score(text, fixed) for text in texts]
        schemas = column_of(kwargs, column, "json_schema")
        pairs = zip(texts, schemas, strict=True)
        return [score(text, _validator(_schema_text(schema))) for text, schema in pairs]

    return reward


_NOTHING = object()


def _parsed(text: str) -> Any:
    """The value of a JSON text, or _NOTHING. NaN and Infinity, which Python's parser takes, are no JSON."""
    try:
        return json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError):
        return _NOTHING


def _refused(constant: str) -> Any:
    raise ValueError(constant)


def _package() -> Any:
    try:
        return importlib.import_module("jsonschema")
    except ImportError:
        raise MissingPackageError(
            "json_schema needs the package jsonschema, which is not installed",
            where=_WHERE,
            fix='pip install "jsonschema>=4.23"',
        ) from None


def _file(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the schema {path} can't be read: {error}", where=_WHERE, fix="check schema_path"
        ) from None


def _schema_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


@functools.lru_cache(maxsize=1024)
def _validator(text: str) -> Any:
    """A validator for the schema, or a sentence on why there is none."""
    schema = _parsed(text)
    if not isinstance(schema, dict | bool):
        return "it is no JSON object"
    package = _package()
    kind = package.validators.validator_for(schema, default=package.Draft202012Validator)
    # With a registry of its own, jsonschema fetches nothing that a `$ref` names.
    registry = importlib.import_module("jsonschema_specifications").REGISTRY
    try:
        kind.check_schema(schema)
        validator = kind(schema, registry=registry)
        _look_up_references(schema, registry)
    except Exception as error:  # whatever a schema is wrong about, and packages name it in many ways
        return str(getattr(error, "message", None) or error).split("\n")[0][:200]
    return validator


def _look_up_references(schema: Any, registry: Any) -> None:
    """Make sure that what the schema refers to is in it, where it has one base for all references."""
    if not isinstance(schema, dict):
        return
    referencing = importlib.import_module("referencing")
    specification = importlib.import_module("referencing.jsonschema").DRAFT202012
    resource = referencing.Resource.from_contents(schema, default_specification=specification)
    base = resource.id() or ""
    resolver = registry.with_resource(base, resource).resolver(base_uri=base)
    found = list(_tables(schema))
    if any("$id" in table for table in found[1:]):
        return
    for table in found:
        if isinstance(reference := table.get("$ref"), str):
            resolver.lookup(reference)


def _tables(value: Any) -> Iterator[dict[str, Any]]:
    """Every table in a JSON value, the outermost first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _tables(each)
