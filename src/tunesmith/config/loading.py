"""From layers to one frozen RunConfig, with the origin of every value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from tunesmith.config.defaults import LOGGING_SOURCE, field_defaults, trl_defaults
from tunesmith.config.layers import Layer, Setting, env_layer, flags_layer, set_layer, yaml_layer
from tunesmith.config.methods import METHODS, which_method
from tunesmith.config.run_config import Budget, DatasetSource, Hub, RunConfig
from tunesmith.errors import ConfigError

# Keys of TRL's config classes that Tunesmith decides itself, and the field that says it here.
OWNED_TRL_KEYS: dict[str, str] = {
    "output_dir": "run_dir",
    "bf16": "precision",
    "fp16": "precision",
    "use_cpu": "device",
    "no_cuda": "device",
    "activation_checkpointing": "gradient_checkpointing",
    "chat_template_path": "chat_template",
    "resume_from_checkpoint": "tunesmith resume RUN",
    "hub_token": "hf auth login (a token in a configuration is copied into every checkpoint)",
    "eval_strategy": "eval_steps",
    "save_strategy": "save_steps",
    "logging_strategy": "logging_steps",
    "push_to_hub": "hub.repo_id (TRL would push what was not searched for secrets)",
    "hub_model_id": "hub.repo_id",
    "hub_strategy": "hub.every, with hub.repo_id",
    "hub_private_repo": "hub.public, with hub.repo_id",
    "hub_always_push": "hub.every, with hub.repo_id",
    "hub_revision": "hub.repo_id",
    "log_completions_hub_repo": "hub.every: save, which sends completions.jsonl (searched for secrets)",
    "deepspeed": "one GPU, or several without sharding: checkpoints of DeepSpeed can't be kept whole yet",
    "fsdp": "one GPU, or several without sharding: checkpoints of FSDP can't be kept whole yet",
    "fsdp_config": "one GPU, or several without sharding: checkpoints of FSDP can't be kept whole yet",
    "dataset_text_field": "a column named text",
    "truncation_mode": "max_length, which cuts the end of a row",
    "eos_token": "chat_template",
}
# What people who come from other tools type.
ALIASES: dict[str, str] = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "global_batch_size",
    "micro_batch_size": "trl.per_device_train_batch_size",
    "rank": "lora_r",
    "lora_rank": "lora_r",
    "alpha": "lora_alpha",
    "model_name_or_path": "model",
    "base_model": "model",
    "dataset_name": "dataset",
    "output_dir": "run_dir",
    "max_seq_length": "max_length",
    "warmup_ratio": "warmup_steps",
    "use_peft": "tuning",
    "val_set_size": "test_size",
}


_TABLE_LINES = {"trl": "weight_decay: 0.01", "budget": "max_hours: 2", "hub": "repo_id: OWNER/NAME"}
# Tables whose keys are ours.
_OUR_TABLES: dict[str, type[BaseModel]] = {"budget": Budget, "hub": Hub}


class LoadedConfig(NamedTuple):
    """The resolved configuration and, for each field and `trl.KEY`, the place its value came from."""

    config: RunConfig
    provenance: dict[str, str]


def load_config(
    *,
    run_yaml: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> LoadedConfig:
    """The configuration of a run: flags > TUNESMITH_* > RUN.yaml > defaults.

    Raises:
        ConfigError: an unknown key, a value out of range, or two places that contradict each other. All
            faults of a kind are collected before it is raised.
    """
    from_flags = flags_layer(flags or {})
    from_set = set_layer(assignments)
    for key in from_flags.keys() & from_set.keys():
        if str(from_flags[key].value) != str(from_set[key].value):
            raise ConfigError(
                f"{key} is given by {from_flags[key].origin} and by --set, with different values",
                where="command line",
                fix="keep one of the two",
            )
    typed = from_flags.get("method")
    from_yaml = yaml_layer(run_yaml, method_of(typed)) if run_yaml else {}
    _method_agrees(from_yaml, from_flags)
    settings: Layer = {**from_yaml, **env_layer(environ), **from_set, **from_flags}
    _refuse_unknown(settings)
    return resolve(settings)


def resolve(settings: Layer) -> LoadedConfig:
    """A validated configuration from one merged layer, method defaults filled in."""
    values: dict[str, Any] = {}
    for key, setting in settings.items():
        table, dot, name = key.partition(".")
        if dot:
            inner = values.setdefault(table, {})
            if not isinstance(inner, dict):
                raise _no_table(table, settings[table])
            inner[name] = setting.value
        else:
            values[key] = setting.value
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise _sentence(error, settings) from None
    provenance = {name: "default" for name in RunConfig.model_fields if name != "trl"}
    provenance["logging_steps"] = f"default ({LOGGING_SOURCE})"
    updates: dict[str, Any] = {}
    provenance |= {key: setting.origin for key, setting in settings.items()}
    for name, default in field_defaults(config.method, config.tuning).items():
        if name not in settings or getattr(config, name) is None:
            updates[name] = default.value
            provenance[name] = f"default ({default.source})"
    own = {name: each for name, each in trl_defaults(config.method).items() if name not in config.trl}
    updates["trl"] = {name: each.value for name, each in own.items()} | config.trl
    provenance |= {f"trl.{name}": f"default ({each.source})" for name, each in own.items()}
    return LoadedConfig(config.model_copy(update=updates), provenance)


def with_tuning(loaded: LoadedConfig, tuning: str) -> LoadedConfig:
    """The configuration with this tuning in place of auto, and the defaults that go with it."""
    updates: dict[str, Any] = {"tuning": tuning}
    provenance = dict(loaded.provenance)
    for name, default in field_defaults(loaded.config.method, tuning).items():
        if provenance[name].startswith("default ("):
            updates[name] = default.value
            provenance[name] = f"default ({default.source})"
    return LoadedConfig(loaded.config.model_copy(update=updates), provenance)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name a person most likely meant, or None."""
    if name.lower() in ALIASES:
        return ALIASES[name.lower()]
    matches = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def method_of(setting: Setting | None) -> str:
    """The method that a setting names, for `tunesmith init`; sft where it names none."""
    named = setting.value if setting else None
    return named if isinstance(named, str) and named in METHODS else "sft"


def _method_agrees(from_yaml: Layer, from_flags: Layer) -> None:
    flag, written = from_flags.get("method"), from_yaml.get("method")
    if flag and flag.value not in METHODS:
        raise ConfigError(
            f"there is no method {flag.value!r}", where="command line", fix=which_method(str(flag.value))
        )
    if flag and written and flag.value != written.value:
        path = written.origin.rpartition(":")[0]
        raise ConfigError(
            f"the command line says method {flag.value}, the file says {written.value}",
            where=written.origin,
            fix=f"tunesmith train {written.value} {path}, or write method: {flag.value} there",
        )


def _refuse_unknown(settings: Layer) -> None:
    faults: list[tuple[str, Setting, str]] = []
    method = method_of(settings.get("method"))
    for key, setting in settings.items():
        table, _, name = key.partition(".")
        if table in _OUR_TABLES and name:
            known = _OUR_TABLES[table].model_fields
            if name not in known:
                near = nearest(name, known)
                fix = f"did you mean {table}.{near}?" if near in known else f"there are {', '.join(known)}"
                faults.append((f"there is no key {key!r}", setting, fix))
        elif table != "trl" or not name:
            if key not in RunConfig.model_fields:
                near = nearest(key, RunConfig.model_fields)
                fix = f"did you mean {near}?" if near else f"tunesmith init {method} lists every key"
                faults.append((f"there is no key {key!r}", setting, fix))
        elif name in OWNED_TRL_KEYS:
            faults.append((f"trl.{name} is not yours to set", setting, f"use {OWNED_TRL_KEYS[name]}"))
        elif name in RunConfig.model_fields:
            faults.append((f"trl.{name} has its own key", setting, f"write {name} at the top level"))
    if faults:
        lines = [
            f"{message} ({setting.origin})" if len(faults) > 1 else message for message, setting, _ in faults
        ]
        raise ConfigError(
            "; ".join(lines),
            where=faults[0][1].origin,
            fix="; ".join(dict.fromkeys(fix for _, _, fix in faults)),
        )


def _no_table(key: str, setting: Setting) -> ConfigError:
    return ConfigError(
        f"{key}: {_shown(setting.value)} should be a table",
        where=setting.origin,
        fix=f"write  {key}:  and below it lines like  {_TABLE_LINES[key]}",
    )


def _sentence(error: ValidationError, settings: Layer) -> ConfigError:
    """pydantic's findings as one error a person can read."""
    lines: list[str] = []
    origins: list[str] = []
    for detail in error.errors(include_url=False):
        place = tuple(part for part in detail["loc"] if not _is_branch(part))
        if _is_other_branch(detail["loc"], detail["input"]):
            continue
        lines.append(_line(place, detail["type"], detail["msg"], detail["input"]))
        if detail["type"] == "missing" and len(place) == 1:
            origins.append("the command line or RUN.yaml")
        elif place:
            setting = settings.get(str(place[0])) or settings.get(f"{place[0]}.{place[-1]}")
            origins += [setting.origin] if setting else []
        else:  # about several fields: the message names them
            said = set(re.findall(r"\w+", detail["msg"]))
            origins += [setting.origin for key, setting in settings.items() if key in said]
    return ConfigError(
        "; ".join(dict.fromkeys(lines)),
        where="; ".join(dict.fromkeys(origins)) or None,
        fix=f"tunesmith init {method_of(settings.get('method'))} explains every key",
    )


def _line(place: tuple[int | str, ...], kind: str, message: str, value: Any) -> str:
    key = ".".join(map(str, place))
    message = message.removeprefix("Value error, ").replace("Input should be", "should be")
    message = message.replace("valid tuple", "list").replace("valid dictionary", "table")
    if not place:
        return message
    if kind == "missing":
        return f"{key} is missing"
    if kind == "extra_forbidden":
        near = nearest(str(place[-1]), DatasetSource.model_fields)
        return f"there is no key {key}" + (f"; did you mean {near}?" if near else "")
    return f"{key}: {_shown(value)} {message}" if message.startswith("should") else f"{key}: {message}"


def _is_branch(part: int | str) -> bool:
    """True for the part of pydantic's place that names a branch of a union, such as `tuple[str, ...]`."""
    return isinstance(part, str) and part.startswith(("tuple[", "str", "constrained", "function"))


def _is_other_branch(place: tuple[int | str, ...], value: Any) -> bool:
    """True for what the branch of a union says that the value was not meant for."""
    branch = next((str(part) for part in place if _is_branch(part)), None)
    if branch is None or len(place) > 2:
        return False
    return isinstance(value, list | tuple) != branch.startswith("tuple[")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
