"""From our fields and the `trl:` table to TRL's own config object, checked by TRL's own class."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import traceback
from collections.abc import Collection
from typing import Any

from tunesmith.config.loading import nearest
from tunesmith.config.run_config import RunConfig
from tunesmith.data.learnable import DataReport
from tunesmith.errors import ConfigError, MissingPackageError
from tunesmith.plan.choice import Choice
from tunesmith.runs.folder import RunFolder
from tunesmith.train import renamed
from tunesmith.train.method_trainer import MethodTrainer
from tunesmith.train.trl_values import check_trl_values

# Ours, whatever the user writes: tracking has one owner (train.tracking), the progress bar is the caller's.
_LOCAL_ONLY = {"disable_tqdm": True, "report_to": "none"}
# By default transformers asks the GPU at every step whether the loss is a number, waits for the answer, and
# writes 0 where it isn't.
_AS_IT_IS = {"logging_nan_inf_filter": False}
# How often evaluations were no better is part of what a run goes on with.
_WHOLE = {"restore_callback_states_from_checkpoint": True}
# Users may overrule these in `trl:`; each keeps a run from being published without being asked.
_PRIVATE = {"hub_private_repo": True, "trackio_static_space_id": False}
# Switches that need a package, and how pip names it; TRL asks for it when the model is loaded already.
_PACKAGES = {"use_vllm": ("vllm", "trl[vllm]"), "use_liger_kernel": ("liger_kernel", "liger-kernel")}
# What Python raises where a value can't be used; memory, files and torch's own failures are not among these.
_OF_A_VALUE = (
    TypeError, ValueError, LookupError, NameError, AttributeError, NotImplementedError, AssertionError,
    ArithmeticError,
)  # fmt: skip


def check_trl_table(config: RunConfig, config_class: type, trainer_class: type) -> None:
    """Make sure that TRL can take the `trl:` table: its keys, its values, and the packages it asks for.

    Raises:
        ConfigError: it can't take a key or a value.
        MissingPackageError: a package isn't installed.
    """
    check_trl_keys(config, config_class)
    check_trl_values(config.trl, config_class, trainer_class)
    check_trl_packages(config)


def check_trl_keys(config: RunConfig, config_class: type) -> None:
    """Make sure that every key of the `trl:` table is an argument of TRL's config class.

    Raises:
        ConfigError: a key isn't; what became of it is told, or else the nearest one is named.
    """
    known = [field.name for field in dataclasses.fields(config_class) if field.init]
    for key in config.trl:
        if key not in known:
            explained = renamed.explain(config_class.__name__, key)
            if explained:
                raise ConfigError(explained.message, where=f"trl.{key}", fix=explained.fix)
            near = nearest(key, known)
            raise ConfigError(
                f"{config_class.__name__} of TRL has no argument {key!r}",
                where=f"trl.{key}",
                fix=f"did you mean {near}?" if near else "see TRL's documentation for its arguments",
            )


def check_trl_packages(config: RunConfig) -> None:
    """Make sure that what the `trl:` table switches on is installed.

    Raises:
        MissingPackageError: a package isn't.
    """
    for key, (module, name) in _PACKAGES.items():
        if config.trl.get(key) and importlib.util.find_spec(module) is None:
            raise MissingPackageError(
                f"trl.{key} needs the package {module}, which is not installed",
                where=f"trl.{key}",
                fix=f"python -m pip install '{name}', or leave trl.{key} out",
            )


def trl_arguments(
    method: MethodTrainer, config: RunConfig, choice: Choice, report: DataReport, run: RunFolder | None
) -> dict[str, Any]:
    """Keyword arguments for the method's config class; without `run` (a dry run) nothing would be written."""
    evaluates = config.has_eval
    eval_steps, save_steps = config.eval_steps, config.save_steps or config.eval_steps
    arguments: dict[str, Any] = {
        **_PRIVATE,
        **_AS_IT_IS,
        **_WHOLE,
        "output_dir": str(run.checkpoints_path) if run else None,
        "project": project_name(config),
        "run_name": config.run_name or (run.path.name if run else None),
        "trackio_space_id": config.trackio_space_id,
        "num_train_epochs": config.num_train_epochs,
        "max_steps": config.max_steps or -1,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.lr_scheduler_type,
        "warmup_steps": config.warmup_steps,
        "seed": config.seed,
        "bf16": choice.precision == "bf16",
        "fp16": choice.precision == "fp16",
        "use_cpu": choice.device == "cpu",
        "dataloader_pin_memory": choice.device == "cuda",
        "gradient_checkpointing": choice.gradient_checkpointing,
        "per_device_train_batch_size": choice.per_device_train_batch_size,
        "per_device_eval_batch_size": choice.per_device_train_batch_size,
        "gradient_accumulation_steps": choice.gradient_accumulation_steps,
        "eval_strategy": "no" if not evaluates else "steps" if eval_steps else "epoch",
        "eval_steps": eval_steps,
        "save_strategy": "steps" if save_steps else "epoch",
        "save_steps": save_steps or 500,
        "save_total_limit": config.save_total_limit,
        "logging_steps": config.logging_steps,
        "load_best_model_at_end": config.load_best_model_at_end or config.early_stopping_patience is not None,
        "metric_for_best_model": method.best_metric[0] if evaluates else None,
        # Of another metric transformers tells by its name.
        "greater_is_better": method.best_metric[1]
        if evaluates and "metric_for_best_model" not in config.trl
        else None,
        **method.arguments(config, choice, report),
    }
    passed_through = {
        key: value for key, value in config.trl.items() if key not in ("model_init_kwargs", "report_to")
    }
    return arguments | passed_through | _LOCAL_ONLY


def build_trl_config(config_class: type, arguments: dict[str, Any]) -> Any:
    """TRL's config object.

    Raises:
        ConfigError: TRL or transformers refuses a value.
    """
    try:
        made = config_class(**arguments)
    except (ValueError, TypeError, ImportError) as error:
        raise refused_by_trl(error, arguments) from error
    # The plan is for one device a process; transformers would spread the batch over all that it sees.
    if made.n_gpu > 1:
        made._n_gpu = 1
    return made


def refused_by_trl(error: Exception, arguments: dict[str, Any]) -> ConfigError:
    """A sentence for what TRL raised about its settings, with the setting when the message names one."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    named = [key for key in arguments if re.search(rf"\b{key}\b", text)]
    value, is_choice, _ = text.partition(" is not a valid ")
    if is_choice:
        named = [key for key, given in arguments.items() if given == value]
    keys = [key if key in RunConfig.model_fields else f"trl.{key}" for key in named]
    return ConfigError(
        f"TRL refuses the settings: {text}",
        where=", ".join(keys) or "trl",
        fix=f"change {keys[0]}" if keys else "add --dry-run to see every setting and where it comes from",
    )


def refused_in_use(error: Exception, keys: Collection[str]) -> ConfigError | None:
    """A sentence for what TRL raised when it used the values of `keys`, the user's own of the `trl:` table.

    None where these can't be the reason: there are none, or the error came from elsewhere.
    """
    if not keys or not isinstance(error, _OF_A_VALUE):
        return None
    packages = [
        str(frame.f_globals.get("__name__")).partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    ours_and_theirs = [name for name in packages if name in ("tunesmith", "trl", "transformers")]
    if not ours_and_theirs or ours_and_theirs[-1] == "tunesmith":
        return None
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    lines = " ".join([text, *(str(frame.line) for frame in traceback.extract_tb(error.__traceback__))])
    named = [f"trl.{key}" for key in keys if re.search(rf"\b{key}s?\b", lines)]
    named = named or [f"trl.{key}" for key in keys]
    return ConfigError(
        f"TRL failed before its first step was done: {type(error).__name__}: {text}",
        where=", ".join(named),
        fix=f"change {', '.join(named)} or leave {'it' if len(named) == 1 else 'them'} out; if TRL fails all "
        "the same, it is a bug of Tunesmith: run it again with --debug and report what it prints",
    )


def project_name(config: RunConfig) -> str:
    """The Trackio project: as configured, else the model's name."""
    return config.project or config.model.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
