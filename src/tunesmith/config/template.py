"""The commented RUN.yaml that `tunesmith init` writes, generated from the fields so that it can't drift."""

from __future__ import annotations

import json
from typing import Any

from pydantic.fields import FieldInfo

from tunesmith.config.defaults import field_defaults, trl_defaults
from tunesmith.config.methods import METHODS, TRAINERS_OF
from tunesmith.config.run_config import RunConfig

_HEADER = """\
# A Tunesmith run. Train it with:   tunesmith train {method} {file}
# Look before you pay:             tunesmith train {method} {file} --dry-run
# {title}; docs: {docs}
# A commented line shows the default. Flags and TUNESMITH_* variables win over this file.
"""
_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_DATASETS = {
    "conversation": "trl-lib/Capybara",
    "preference": "trl-lib/ultrafeedback_binarized",
    "unpaired": "trl-lib/kto-mix-14k",
    "prompts": "openai/gsm8k",
}
_TRL_HEADER = "trl:                              # checked against TRL's own config class\n"


def run_yaml_template(method: str, file_name: str) -> str:
    """A RUN.yaml with every field, its default and its meaning; only method, model and dataset are set."""
    spec = METHODS[method]
    docs = f"docs/methods/{spec.trainer}.md"
    lines = [_HEADER.format(method=method, file=file_name, title=spec.title, docs=docs)]
    panel = None
    for name, field in RunConfig.model_fields.items():
        if name == "trl" or spec.trainer not in TRAINERS_OF.get(name, (spec.trainer,)):
            continue
        extra: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra["panel"] != panel:
            panel = extra["panel"]
            lines.append(f"\n# --- {panel} ---\n")
        lines.append(_line(name, field, method))
    lines.append("\n# --- Any other argument of TRL's trainer config ---\n" + _trl_lines(method))
    return "".join(lines)


def _given(method: str) -> dict[str, Any]:
    """What stands in the file uncommented: the method, and what has no default."""
    spec = METHODS[method]
    given: dict[str, Any] = {"method": method, "model": _MODEL, "dataset": _DATASETS[spec.kind]}
    if spec.trainer in TRAINERS_OF["rewards"]:
        given["rewards"] = ["numeric_answer"]
    if spec.trainer in TRAINERS_OF["teacher_model"]:
        given["teacher_model"] = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
    if given["dataset"] == "openai/gsm8k":
        given["dataset_config"] = "main"
    return given


def _line(name: str, field: FieldInfo, method: str) -> str:
    given = _given(method)
    default = field_defaults(method, "lora").get(name)
    value = given.get(name, default.value if default else field.default)
    shown = (
        ""
        if value is None
        else json.dumps(value)
        if isinstance(value, bool | list | tuple | dict)
        else str(value)
    )
    prefix = "" if name in given else "# "
    return f"{f'{prefix}{name}: {shown}':<50} # {field.description}\n"


def _trl_lines(method: str) -> str:
    own = trl_defaults(method)
    if not own:
        return f"# {_TRL_HEADER}#   weight_decay: 0.01\n"
    lines = [f"{f'#   {name}: {json.dumps(each.value)}':<50} # {each.source}\n" for name, each in own.items()]
    return f"# {_TRL_HEADER}" + "".join(lines)
