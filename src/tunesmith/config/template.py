"""The commented RUN.yaml that `tunesmith init` writes, generated from the fields so that it can't drift."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tunesmith.config.defaults import field_defaults, trl_defaults
from tunesmith.config.methods import METHODS, TRAINERS_OF, TRL_SETTINGS
from tunesmith.config.run_config import Budget, Hub, RunConfig
from tunesmith.config.trl_source import Written, written_arguments

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
_OF_EVERY_TRAINER = ("weight_decay", "max_grad_norm")
_UNKNOWN = Written(None, "its default stands in TRL's documentation")
_TABLES: dict[str, type[BaseModel]] = {"budget": Budget, "hub": Hub}
_PINS = ("per_device_train_batch_size", "gradient_accumulation_steps")
_PINNED = "both or neither: they multiply to global_batch_size (default: what fits into memory)"


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
        lines.append(_table_lines(name, field) if name in _TABLES else _line(name, field, method))
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


def _table_lines(table: str, field: FieldInfo) -> str:
    lines = [f"{f'# {table}:':<50} # {field.description}\n"]
    for name, each in _TABLES[table].model_fields.items():
        lines.append(f"{f'#   {name}:':<50} # {each.description}\n")
    return "".join(lines)


def _trl_lines(method: str) -> str:
    """The method's own settings with their sources, and TRL's defaults with its words for them."""
    own, trainer = trl_defaults(method), METHODS[method].trainer
    written = written_arguments(trainer)
    lines = [f"# {_TRL_HEADER}"]
    for name in dict.fromkeys([*own, *TRL_SETTINGS[trainer], *_OF_EVERY_TRAINER]):
        value, meaning = own.get(name) or written.get(name, _UNKNOWN)
        lines.append(_trl_line(name, value, meaning))
    lines += [_trl_line(name, None, _PINNED) for name in _PINS]
    return "".join(lines)


def _trl_line(name: str, value: Any, meaning: str) -> str:
    return f"{f'#   {name}: ' + ('' if value is None else json.dumps(value)):<50} # {meaning}\n"
