"""The commented RUN.yaml that `tunesmith init` writes, generated from the fields so that it can't drift."""

from __future__ import annotations

import json
from typing import Any

from pydantic.fields import FieldInfo

from tunesmith.config.run_config import RunConfig

_HEADER = """\
# A Tunesmith run. Train it with:   tunesmith train {method} {file}
# Look before you pay:             tunesmith train {method} {file} --dry-run
# A commented line shows the default. Flags and TUNESMITH_* variables win over this file.
"""
_EXAMPLES = {"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "dataset": "trl-lib/Capybara"}
_TRL_EXAMPLE = (
    "# trl:                            # checked against TRL's own config class\n#   weight_decay: 0.01\n"
)


def run_yaml_template(method: str, file_name: str) -> str:
    """A RUN.yaml with every field, its default and its meaning; only method, model and dataset are set."""
    lines = [_HEADER.format(method=method, file=file_name)]
    panel = None
    for name, field in RunConfig.model_fields.items():
        if name == "trl":
            continue
        extra: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra["panel"] != panel:
            panel = extra["panel"]
            lines.append(f"\n# --- {panel} ---\n")
        lines.append(_line(name, field, method))
    lines.append("\n# --- Any other argument of TRL's trainer config ---\n" + _TRL_EXAMPLE)
    return "".join(lines)


def _line(name: str, field: FieldInfo, method: str) -> str:
    value = method if name == "method" else _EXAMPLES.get(name, field.default)
    shown = (
        ""
        if value is None
        else json.dumps(value)
        if isinstance(value, bool | list | tuple | dict)
        else str(value)
    )
    prefix = "" if name in ("method", "model", "dataset") else "# "
    return f"{f'{prefix}{name}: {shown}':<50} # {field.description}\n"
