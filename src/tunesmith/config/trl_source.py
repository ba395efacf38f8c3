"""TRL's defaults, read off the text of its config classes: to import them takes torch and ten seconds."""

from __future__ import annotations

import ast
import importlib.util
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Written(NamedTuple):
    """An argument as TRL's source has it: its default, and the first sentence of its help."""

    value: Any
    meaning: str


def written_arguments(trainer: str) -> dict[str, Written]:
    """The arguments of the config class of a trainer, such as dpo; none where TRL isn't installed.

    Left out are those whose default is no literal.
    """
    found: dict[str, Written] = {}
    for path in _config_files(trainer):
        for name, field in _fields(ast.parse(path.read_text(encoding="utf-8"))):
            written = _written(field)
            if written and name not in found:
                found[name] = written
    return found


def _config_files(trainer: str) -> list[Path]:
    """The class itself, then those it inherits from."""
    trl, transformers = _folder("trl"), _folder("transformers")
    if trl is None or transformers is None:
        return []
    own = [trl / "trainer" / f"{trainer}_config.py", trl / "experimental" / trainer / f"{trainer}_config.py"]
    inherited = [trl / "trainer" / "base_config.py", transformers / "training_args.py"]
    return [path for path in [*own, *inherited] if path.is_file()]


def _folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def _fields(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(node.value, ast.Call)
        ):
            yield node.target.id, node.value


def _written(field: ast.Call) -> Written | None:
    parts = {keyword.arg: keyword.value for keyword in field.keywords}
    default = parts.get("default")
    if isinstance(factory := parts.get("default_factory"), ast.Lambda):
        default = factory.body
    try:
        metadata = ast.literal_eval(parts["metadata"])
        value = ast.literal_eval(default) if default else None
    except (KeyError, ValueError):
        return None
    return Written(value, _first_sentence(str(metadata.get("help", ""))))


def _first_sentence(text: str) -> str:
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    return textwrap.shorten(re.split(r"\. (?=[A-Z])", plain)[0].rstrip("."), 100, placeholder=" ...")
