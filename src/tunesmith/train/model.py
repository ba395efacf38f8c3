"""Loading the model, counting it without its weights, and the LoRA around it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.model_files import check_model_files, refuse_pickles
from tunesmith.data.tokenizer import load_tokenizer, model_sentence
from tunesmith.errors import ConfigError, MissingPackageError
from tunesmith.plan.base import Base, base_of
from tunesmith.plan.choice import Choice
from tunesmith.runs.folder import RunFolder
from tunesmith.train.count_parameters import config_of, count_parameters_of
from tunesmith.train.method_trainer import MethodTrainer
from tunesmith.train.origin import Origin
from tunesmith.train.processes import first_before_others


def load_model_config(config: RunConfig, model: str, revision: str | None) -> Any:
    """A model's transformers configuration.

    Raises:
        ModelError: there is none to load.
        DownloadError: the Hub can't be reached, or refuses.
    """
    from transformers import AutoConfig

    check_model_files(model, revision, trust_remote_code=config.trust_remote_code)
    refuse_pickles(model, revision)
    try:
        return AutoConfig.from_pretrained(
            model, revision=revision, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:  # transformers raises many kinds; each becomes a sentence (test_bad_input.py)
        raise model_sentence(model, error, "configuration", revision) from error


def lora_config(config: RunConfig, task_type: str = "CAUSAL_LM") -> Any | None:
    """peft's LoraConfig, or None for full fine-tuning."""
    if not config.has_adapter:
        return None
    from peft import LoraConfig

    targets = config.lora_target_modules
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets if isinstance(targets, str) and not _is_name(targets) else _names(targets),
        use_dora=config.use_dora,
        task_type=task_type,
    )


@dataclass(frozen=True)
class Sizes:
    """The base model's sizes, and how many numbers are trained."""

    base: Base
    num_trainable_params: int

    @property
    def num_params(self) -> int:
        """All parameters of the base model."""
        return self.base.parameters.total

    def as_dict(self) -> dict[str, Any]:
        """The sizes as run.json keeps them."""
        shape = self.base.architecture
        return {
            "num_params": self.num_params,
            "num_trainable_params": self.num_trainable_params,
            "model_type": shape.model_type,
            "num_layers": shape.num_layers,
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "vocab_size": shape.vocab_size,
        }


def measure_model(config: RunConfig, model_config: Any, method: MethodTrainer) -> Sizes:
    """Exact sizes, counted on the meta device: no weight is loaded.

    Raises:
        ConfigError: a LoRA target matches no module.
        ModelError: the architecture is none that the method can train.
    """
    model = _meta_model(config, model_config, method)
    num_params, num_linear = count_parameters_of(model)
    trainable = _count_lora(config, model, method.task_type()) if config.has_adapter else num_params
    base = base_of(config.model, config_of(model_config), num_params, num_linear)
    return Sizes(base, trainable)


def _meta_model(config: RunConfig, model_config: Any, method: MethodTrainer) -> Any:
    import torch

    for name, value in method.model_options().items():
        setattr(model_config, name, value)
    try:
        with torch.device("meta"):
            return method.model_class().from_config(model_config, trust_remote_code=config.trust_remote_code)
    except ValueError as error:
        raise model_sentence(config.model, error, "causal language model") from error


def load_model(
    config: RunConfig, choice: Choice, method: MethodTrainer, origin: Origin, run: RunFolder | None
) -> Any:
    """The model with its weights, in fp32 unless a frozen base can stay in 16 bit, on the run's device.

    What an earlier run learned is merged in; an adapter on top of that needs the merged base, so `run` keeps
    it. A `run` is needed for that alone.

    Raises:
        ModelError: the weights can't be loaded.
        DownloadError: the Hub can't be reached, or refuses.
        MissingPackageError: qlora, and bitsandbytes isn't installed.
    """
    from transformers import set_seed

    # A reward model's head is new: it is drawn here.
    set_seed(config.seed)
    where, revision = origin.model, origin.revision
    if origin.adapter and run:
        with first_before_others():
            if run.writes:
                _merge(config, method, origin, run)
        where, revision = str(run.base_path), None
    options = _load_options(config, choice)
    model = _from_pretrained(config, method, where, revision, options)
    if run and run.base_path.is_dir():
        # peft writes this into the adapter's configuration, for whoever loads it.
        model.name_or_path = model.config._name_or_path = str(run.base_path.resolve())
    return model if config.tuning == "qlora" else model.to(choice.device)


def load_teacher(config: RunConfig, choice: Choice) -> Any:
    """The model to distil from, frozen, in the precision of the run.

    Raises:
        ModelError, DownloadError: it can't be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    name = str(config.teacher_model)
    refuse_pickles(name)
    try:
        teacher = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtypes[choice.precision],
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
        )
    except Exception as error:  # transformers raises many kinds; each becomes a sentence (test_bad_input.py)
        raise model_sentence(name, error, "model") from error
    return teacher.to(choice.device).eval().requires_grad_(False)


def _load_options(config: RunConfig, choice: Choice) -> dict[str, Any]:
    import torch

    sixteen_bit = torch.bfloat16 if choice.precision == "bf16" else torch.float16
    frozen_base = config.has_adapter and choice.precision != "fp32"
    options: dict[str, Any] = {"dtype": sixteen_bit if frozen_base else torch.float32}
    if config.tuning == "qlora":
        place = {"": torch.cuda.current_device()}
        options |= {"quantization_config": four_bit_config(options["dtype"]), "device_map": place}
    return options | (config.trl.get("model_init_kwargs") or {})


def four_bit_config(compute_dtype: Any) -> Any:
    """NormalFloat4 with quantised constants, as the QLoRA paper (arXiv 2305.14314) has it."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def _from_pretrained(
    config: RunConfig, method: MethodTrainer, where: str, revision: str | None, options: dict[str, Any]
) -> Any:
    refuse_pickles(where, revision)
    try:
        return method.model_class().from_pretrained(
            where,
            revision=revision,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            **options,
            **method.model_options(),
        )
    except Exception as error:  # transformers raises many kinds; each becomes a sentence (test_bad_input.py)
        raise model_sentence(where, error, "model", revision) from error


def _merge(config: RunConfig, method: MethodTrainer, origin: Origin, run: RunFolder) -> None:
    """Write the earlier run's adapter merged into its base, in fp32, to the run's base folder."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    refuse_pickles(origin.model, origin.revision)
    refuse_pickles(str(origin.adapter))
    try:
        base = AutoModelForCausalLM.from_pretrained(
            origin.model,
            revision=origin.revision,
            dtype=torch.float32,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
        )
        merged = PeftModel.from_pretrained(base, origin.adapter).merge_and_unload()
    except Exception as error:  # transformers and peft raise many kinds (test_init_from.py)
        raise model_sentence(origin.model, error, "model") from error
    tokenizer = load_tokenizer(config, origin.tokenizer)
    save_whole(run.base_path, merged.save_pretrained, tokenizer.save_pretrained)


def save_whole(path: Path, *savers: Callable[[Path], Any]) -> None:
    """Let `savers` write into the folder `path`, so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    for save in savers:
        save(temporary)
    shutil.rmtree(path, ignore_errors=True)
    temporary.replace(path)


def refuse_qlora_here(config: RunConfig, device: str) -> None:
    """Make sure that a base in 4 bit can be had on `device`.

    Raises:
        ConfigError: the device isn't CUDA.
        MissingPackageError: bitsandbytes isn't installed.
    """
    if config.tuning != "qlora":
        return
    if device != "cuda":
        raise ConfigError(
            f"qlora keeps the base in 4 bit on a CUDA device, and this run is on {device}",
            where="tuning",
            fix="use --tuning lora",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingPackageError(
            "qlora needs the package bitsandbytes",
            where="tuning",
            fix="pip install 'tunesmith[qlora]'",
        )


def _count_lora(config: RunConfig, model: Any, task_type: str) -> int:
    """Trainable parameters of the adapter, from wrapping the meta model for real."""
    import torch
    from peft import get_peft_model

    names = sorted(
        {name.rsplit(".", 1)[-1] for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)}
    )
    targets = config.lora_target_modules
    for target in _names(targets) if _is_name(targets) else ():
        if not any(name == target or name.endswith(f".{target}") for name, _ in model.named_modules()):
            raise ConfigError(
                f"lora_target_modules: {target!r} matches no module of {config.model}",
                where="lora_target_modules",
                fix=f"this model has {', '.join(names)}; or use all-linear",
            )
    try:
        wrapped = get_peft_model(model, lora_config(config, task_type))
    except ValueError as error:
        raise ConfigError(
            f"peft refuses this LoRA: {str(error).splitlines()[0]}",
            where="lora_target_modules",
            fix=f"this model has {', '.join(names)}; or use all-linear",
        ) from error
    return sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)


def _is_name(targets: str | tuple[str, ...]) -> bool:
    """False for all-linear and for a regular expression, which peft reads itself."""
    return not isinstance(targets, str) or targets.isidentifier()


def _names(targets: str | tuple[str, ...]) -> list[str]:
    return [targets] if isinstance(targets, str) else list(targets)
