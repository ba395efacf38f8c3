"""Loading the model, counting it without its weights, and the LoRA around it."""

from __future__ import annotations

from typing import Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.tokenizer import model_sentence
from tunesmith.errors import ConfigError
from tunesmith.plan.facts import ModelFacts


def load_model_config(config: RunConfig) -> Any:
    """The model's transformers configuration.

    Raises:
        ModelError: there is none to load.
        DownloadError: the Hub can't be reached, or refuses.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            config.model, revision=config.model_revision, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:  # transformers raises many kinds; each becomes a sentence (test_bad_input.py)
        raise model_sentence(config.model, error, "configuration") from error


def lora_config(config: RunConfig) -> Any | None:
    """peft's LoraConfig, or None for full fine-tuning."""
    if config.tuning == "full":
        return None
    from peft import LoraConfig

    targets = config.lora_target_modules
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets if isinstance(targets, str) and not _is_name(targets) else _names(targets),
        task_type="CAUSAL_LM",
    )


def measure_model(config: RunConfig, model_config: Any) -> ModelFacts:
    """Exact sizes, counted on the meta device: no weight is loaded.

    Raises:
        ConfigError: a LoRA target matches no module.
        ModelError: the architecture is no causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(model_config, trust_remote_code=config.trust_remote_code)
    except ValueError as error:
        raise model_sentence(config.model, error, "causal language model") from error
    num_params = sum(weight.numel() for weight in model.parameters())
    text = model_config.get_text_config()
    trainable = num_params
    if config.tuning == "lora":
        trainable = _count_lora(config, model)
    return ModelFacts(
        num_params=num_params,
        num_trainable_params=trainable,
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocab_size=text.vocab_size,
    )


def load_model(config: RunConfig, precision: str) -> Any:
    """The model with its weights, in fp32 unless a frozen base can stay in 16 bit.

    Raises:
        ModelError: the weights can't be loaded.
        DownloadError: the Hub can't be reached, or refuses.
    """
    import torch
    from transformers import AutoModelForCausalLM

    frozen_base = config.tuning == "lora" and precision != "fp32"
    sixteen_bit = torch.bfloat16 if precision == "bf16" else torch.float16
    options: dict[str, Any] = {
        "dtype": sixteen_bit if frozen_base else torch.float32,
        "revision": config.model_revision,
        "trust_remote_code": config.trust_remote_code,
        **(config.trl.get("model_init_kwargs") or {}),
    }
    try:
        return AutoModelForCausalLM.from_pretrained(config.model, **options)
    except Exception as error:  # transformers raises many kinds; each becomes a sentence (test_bad_input.py)
        raise model_sentence(config.model, error, "model") from error


def _count_lora(config: RunConfig, model: Any) -> int:
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
        wrapped = get_peft_model(model, lora_config(config))
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
