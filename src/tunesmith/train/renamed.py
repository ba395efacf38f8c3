"""Arguments that TRL and transformers renamed or removed, so that an old recipe is told the new name.

Versions are the first that refuse the old name, by comparing the fields of the released config classes (TRL
0.12 to 1.16, transformers 4.46 to 5.23). What to write instead is each library's own word: its deprecation
messages, transformers' MIGRATION_GUIDE_V5.md, and TRL's pull requests 4969 (DPO) and 6449 (distillation).
"""

from __future__ import annotations

from typing import NamedTuple

from tunesmith.config.loading import OWNED_TRL_KEYS
from tunesmith.config.run_config import RunConfig


class Renamed(NamedTuple):
    """What became of an argument: `now` is its new name, None when it is gone; `write` says what to do."""

    library: str
    since: str
    now: str | None = None
    write: str = ""


class Explained(NamedTuple):
    """What an error says about an argument that is no more: what happened, and what to write now."""

    message: str
    fix: str


def new_name(config_class_name: str, key: str) -> str | None:
    """The argument of TRL's config class that took the place of `key`; None when none did."""
    found = find_renamed(config_class_name, key)
    return found.now if found else None


def find_renamed(config_class_name: str, key: str) -> Renamed | None:
    """What became of `key`, an argument that the config class, such as `SFTConfig`, no longer has."""
    return OF_TRL.get(config_class_name, {}).get(key) or OF_TRANSFORMERS.get(key)


def explain(config_class_name: str, key: str) -> Explained | None:
    """What became of `key`, as sentences; None for a key that never was."""
    found = find_renamed(config_class_name, key)
    if found is None:
        return None
    if found.now is None:
        return Explained(f"{found.library} removed {key} (since {found.since})", found.write)
    return Explained(
        f"{found.library} renamed {key} to {found.now} (since {found.since})",
        f"{_where_to_write(found.now)}{': ' if found.write else ''}{found.write}",
    )


def _where_to_write(name: str) -> str:
    """A field of ours wins over TRL's argument, whose value it decides."""
    if name in OWNED_TRL_KEYS:
        return f"use {OWNED_TRL_KEYS[name]}"
    return f"write {name} at the top level" if name in RunConfig.model_fields else f"write trl.{name}"


def _trl(since: str, now: str | None = None, write: str = "") -> Renamed:
    return Renamed("TRL", since, now, write)


def _transformers(since: str, now: str | None = None, write: str = "") -> Renamed:
    return Renamed("transformers", since, now, write)


_KERNELS = "write trl.model_init_kwargs: {use_kernels: true}"
_LEAVE_OUT = "leave it out"
_TOKENIZER = "leave it out: the tokenizer comes with the model"
_PAD_TOKEN = "leave it out: the padding token is the tokenizer's"
_LABEL_PAD = "leave it out: labels are padded with -100"
_CAUSAL = "leave it out: only causal language models are trained"
_ADAPTER = "leave it out: there is one adapter, and the base without it is the reference"
_LONG_PROMPTS = "leave it out, and drop rows whose prompt is too long from the data"
_CUT_ROWS = "leave it out: max_length cuts the whole row; drop rows whose prompt is too long from the data"
_SERVER = "leave it out, and give it to the vLLM server, as in trl vllm-serve"
_WHOLE_VOCABULARY = "leave it out: the loss is taken over the whole vocabulary"
_TEACHER_SERVER = "leave it out: the teacher of teacher_model is loaded beside the student"
_WANDB = "leave it out: project and run_name name the run"

_SINCE_0_29_OF_DPO: dict[str, Renamed] = {
    "base_model_attribute_name": _trl("0.29", write=_LEAVE_OUT),
    "force_use_ref_model": _trl("0.29", write=_ADAPTER),
    "generate_during_eval": _trl("0.29", write=_LEAVE_OUT),
    "label_pad_token_id": _trl("0.29", write=_LABEL_PAD),
    "max_completion_length": _trl("0.29", "max_length", "tokens of prompt and answer together"),
    "max_prompt_length": _trl("0.29", write=_CUT_ROWS),
    "model_adapter_name": _trl("0.29", write=_ADAPTER),
    "ref_adapter_name": _trl("0.29", write=_ADAPTER),
    "ref_model_init_kwargs": _trl("0.29", write="leave it out: the reference is loaded as the model is"),
    "reference_free": _trl("0.29", write="use method cpo or simpo, which have no reference model"),
    "rpo_alpha": _trl(
        "0.29",
        write="write trl.loss_type: [sigmoid, sft] and trl.loss_weights: [1.0, what rpo_alpha was]",
    ),
    "tools": _trl("0.29", write="give each row of the data a column tools"),
    "use_logits_to_keep": _trl("0.29", write=_LEAVE_OUT),
}

OF_TRL: dict[str, dict[str, Renamed]] = {
    "SFTConfig": {
        "tokenizer": _trl("0.16", write=_TOKENIZER),
        "max_seq_length": _trl("0.20", "max_length"),
        "num_of_sequences": _trl("0.18", "max_length", "in tokens, not in strings"),
        "chars_per_token": _trl("0.18", write="leave it out: max_length counts tokens"),
        "dataset_batch_size": _trl("0.18", write=_LEAVE_OUT),
        "use_liger": _trl("0.18", write=_KERNELS),
    },
    "DPOConfig": {
        "tokenizer": _trl("0.16", write=_TOKENIZER),
        "is_encoder_decoder": _trl("0.15", write=_CAUSAL),
        "max_target_length": _trl("0.14", "max_length", "tokens of prompt and answer together"),
        "padding_value": _trl("0.26", write=_PAD_TOKEN),
        "use_liger_loss": _trl("0.28", write=_KERNELS),
        "use_num_logits_to_keep": _trl("0.17", write=_LEAVE_OUT),
        **_SINCE_0_29_OF_DPO,
    },
    "KTOConfig": {
        "tokenizer": _trl("0.16", write=_TOKENIZER),
        "base_model_attribute_name": _trl("0.28", write=_LEAVE_OUT),
        "generate_during_eval": _trl("1.2", write=_LEAVE_OUT),
        "is_encoder_decoder": _trl("0.27", write=_CAUSAL),
        "label_pad_token_id": _trl("0.28", write=_LABEL_PAD),
        "max_completion_length": _trl("0.27", "max_length", "tokens of prompt and answer together"),
        "max_prompt_length": _trl("0.27", write=_CUT_ROWS),
        "padding_value": _trl("0.28", write=_PAD_TOKEN),
        "ref_model_init_kwargs": _trl("0.28", write="leave it out: the reference is loaded as the model is"),
        "use_liger_loss": _trl("0.28", write=_KERNELS),
    },
    "CPOConfig": {
        "label_pad_token_id": _trl("0.28", write=_LABEL_PAD),
        "max_prompt_length": _trl("0.28", write=_CUT_ROWS),
        "padding_value": _trl("0.28", write=_PAD_TOKEN),
    },
    "ORPOConfig": {
        "label_pad_token_id": _trl("0.28", write=_LABEL_PAD),
        "max_prompt_length": _trl("0.28", write=_CUT_ROWS),
    },
    "GRPOConfig": {
        "max_prompt_length": _trl("0.28", write=_LONG_PROMPTS),
        "use_liger_loss": _trl("0.28", write=_KERNELS),
        "vllm_device": _trl(
            "0.18", write="write trl.vllm_mode: colocate (these GPUs), or server and start trl vllm-serve"
        ),
        "vllm_dtype": _trl("0.18", write=_SERVER),
        "vllm_enable_prefix_caching": _trl("0.18", write=_SERVER),
        "vllm_max_model_len": _trl("0.18", "vllm_max_model_length"),
        "vllm_guided_decoding_regex": _trl("0.28", "vllm_structured_outputs_regex"),
        "wandb_log_unique_prompts": _trl("0.27", "log_unique_prompts"),
    },
    "RLOOConfig": {
        "cliprange": _trl("0.25", "epsilon"),
        "dataset_num_proc": _trl("0.25", write=_LEAVE_OUT),
        "exp_name": _trl("0.25", "run_name"),
        "kl_coef": _trl("0.25", "beta"),
        "local_rollout_forward_batch_size": _trl("0.25", "per_device_train_batch_size"),
        "max_prompt_length": _trl("0.29", write=_LONG_PROMPTS),
        "missing_eos_penalty": _trl("0.25", write="leave it out, and let a reward of your own take it off"),
        "normalize_reward": _trl("0.25", "normalize_advantages"),
        "num_mini_batches": _trl("0.25", "steps_per_generation"),
        "num_ppo_epochs": _trl("0.25", "num_iterations"),
        "num_sample_generations": _trl("0.25", "logging_steps", "with trl.log_completions: true"),
        "response_length": _trl("0.25", "max_completion_length"),
        "rloo_k": _trl("0.25", "num_generations"),
        "stop_token": _trl("0.25", write=_LEAVE_OUT),
        "stop_token_id": _trl(
            "0.25", write="leave it out: an answer ends at the tokenizer's end-of-turn token"
        ),
        "token_level_kl": _trl("0.25", write="leave it out: KL is taken over the whole answer"),
        "total_episodes": _trl("0.25", "max_steps", "optimizer steps, not answers"),
        "vllm_guided_decoding_regex": _trl("0.28", "vllm_structured_outputs_regex"),
        "wandb_log_unique_prompts": _trl("0.27", "log_unique_prompts"),
    },
    "DistillationConfig": {
        "generation_batch_size": _trl("1.10", write=_LEAVE_OUT),
        "lmbda": _trl("1.9", write="leave it out: the student always learns from its own answers"),
        "log_completions_steps": _trl("1.10", "logging_steps", "with trl.log_completions: true"),
        "loss_add_tail": _trl("1.9", write=_WHOLE_VOCABULARY),
        "loss_top_k": _trl("1.9", write=_WHOLE_VOCABULARY),
        "max_prompt_length": _trl("1.10", write=_LONG_PROMPTS),
        "reverse_kl_top_1_mode": _trl("1.9", write=_WHOLE_VOCABULARY),
        "teacher_model_server_url": _trl("1.9", write=_TEACHER_SERVER),
        "use_teacher_server": _trl("1.9", write=_TEACHER_SERVER),
        "vllm_sync_frequency": _trl("1.10", write=_LEAVE_OUT),
        "wandb_entity": _trl("1.7", write=_WANDB),
        "wandb_project": _trl("1.7", "project"),
        "wandb_run_group": _trl("1.7", write=_WANDB),
    },
}

_AUTOCAST = "leave it out: precision says it, and torch's own autocast does it"

# Every config class of TRL's inherits these.
OF_TRANSFORMERS: dict[str, Renamed] = {
    "adafactor": _transformers("5.0", "optim", "adafactor"),
    "dispatch_batches": _transformers("4.51", "accelerator_config", "{dispatch_batches: ...}"),
    "evaluation_strategy": _transformers("4.51", "eval_strategy"),
    "fp16_backend": _transformers("5.0", write=_AUTOCAST),
    "fp16_opt_level": _transformers("5.0", write=_AUTOCAST),
    "fsdp_min_num_params": _transformers("5.0", "fsdp_config", "{min_num_params: ...}"),
    "fsdp_transformer_layer_cls_to_wrap": _transformers(
        "5.0", "fsdp_config", "{transformer_layer_cls_to_wrap: ...}"
    ),
    "group_by_length": _transformers("5.2", "train_sampling_strategy", "group_by_length"),
    "half_precision_backend": _transformers("5.0", write=_AUTOCAST),
    "include_inputs_for_metrics": _transformers("5.0", "include_for_metrics", "[inputs]"),
    "include_tokens_per_second": _transformers("5.0", "include_num_input_tokens_seen"),
    "jit_mode_eval": _transformers("5.0", "torch_compile"),
    "logging_dir": _transformers("5.15", write="leave it out: the run folder holds the logs"),
    "no_cuda": _transformers("5.0", "use_cpu"),
    "overwrite_output_dir": _transformers("5.0", write="leave it out: every run has a folder of its own"),
    "past_index": _transformers("5.0", write=_LEAVE_OUT),
    "per_gpu_eval_batch_size": _transformers("5.0", "per_device_eval_batch_size"),
    "per_gpu_train_batch_size": _transformers("5.0", "per_device_train_batch_size"),
    "push_to_hub_model_id": _transformers("5.0", "hub_model_id"),
    "push_to_hub_organization": _transformers("5.0", "hub_model_id", "OWNER/NAME"),
    "push_to_hub_token": _transformers("5.0", "hub_token"),
    "save_safetensors": _transformers("5.0", write="leave it out: weights are always safetensors"),
    "split_batches": _transformers("4.51", "accelerator_config", "{split_batches: ...}"),
    "torchdynamo": _transformers("5.0", "torch_compile_backend"),
    "tpu_metrics_debug": _transformers("5.0", "debug"),
    "use_ipex": _transformers("4.57", write=_LEAVE_OUT),
    "use_legacy_prediction_loop": _transformers("5.0", write=_LEAVE_OUT),
    "use_mps_device": _transformers("5.0", write="leave it out: device says it, and auto takes MPS"),
    "warmup_ratio": _transformers("5.15", "warmup_steps", "a value below 1 is a share of the run"),
}
