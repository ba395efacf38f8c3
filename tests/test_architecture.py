"""Sizes told from config.json alone are those that transformers and peft count on the meta device."""

import dataclasses
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from architectures import PUBLISHED, on_meta, small

from tunesmith.errors import ConfigError, ModelError
from tunesmith.plan.architecture import Quantization, read_architecture, read_config
from tunesmith.plan.families import FAMILIES, LAYOUTS
from tunesmith.plan.parameters import count_lora, count_parameters, stored_parameters

SMOLLM = Path("~/.cache/tunesmith/SmolLM2-135M-Instruct").expanduser()
KINDS = {
    "head": r"lm_head",
    "embedding": r"embed|wte|wpe",
    "norms": r"norm|\.ln_",
    "router": r"\.(gate|router|shared_expert_gate)\.",
    "experts": r"\.experts\.",
    "attention": r"attn|attention\.",
    "mlp": r"",
}


SWITCHES = ("attention_bias", "mlp_bias", "use_bias", "qkv_bias", "use_qkv_bias", "attention_out_bias")
SWITCHES += ("use_qk_norm", "qk_layernorm", "use_parallel_residual", "tie_word_embeddings")
# What else changes which layers have experts, and which projections there are.
ODD = [
    ("qwen3_moe", {"decoder_sparse_step": 2}),
    ("qwen2_moe", {"mlp_only_layers": [1]}),
    ("deepseek_v3", {"q_lora_rank": None, "first_k_dense_replace": 2, "n_shared_experts": 3}),
    ("deepseek_v2", {"first_k_dense_replace": 1}),
    ("glm4_moe", {"first_k_dense_replace": 3}),
    ("gpt2", {"n_inner": 100}),
    ("llama", {"num_key_value_heads": None}),
    ("llama", {"head_dim": 24}),
    ("phi3", {"head_dim": 24}),
    ("qwen2", {"head_dim": 24}),
    ("cohere", {"head_dim": 24}),
    ("cohere2", {"head_dim": 24}),
]


def kinds_of(model):
    counted = dict.fromkeys(KINDS, 0)
    for name, weight in model.named_parameters():
        kind = next(kind for kind, pattern in KINDS.items() if re.search(pattern, name))
        counted[kind] += weight.numel()
    return counted


def linear_of(model):
    import torch
    from transformers.pytorch_utils import Conv1D

    linear = (module for name, module in model.named_modules() if "lm_head" not in name)
    linear = (module for module in linear if isinstance(module, torch.nn.Linear | Conv1D))
    return sum(weight.numel() for module in linear for weight in module.parameters())


def assert_counts_agree(values):
    counted, model = count_parameters(read_architecture(values)), on_meta(values)
    assert {kind: getattr(counted, kind) for kind in KINDS} == kinds_of(model)
    assert counted.total == model.num_parameters()
    assert counted.linear == linear_of(model)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_as_many_numbers_of_each_kind_as_transformers_counts(name):
    values, total = PUBLISHED[name]
    assert_counts_agree(values)
    assert count_parameters(read_architecture(values)).total == total


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_is_counted_with_each_of_its_switches_on_and_off(model_type):
    from transformers import AutoConfig

    assert_counts_agree(small(model_type))
    known = AutoConfig.for_model(model_type)
    for switch in SWITCHES:
        if hasattr(known, switch):
            assert_counts_agree(small(model_type, **{switch: not getattr(known, switch)}))


@pytest.mark.parametrize(("model_type", "more"), ODD)
def test_odd_values_of_a_family_are_counted_as_transformers_takes_them(model_type, more):
    assert_counts_agree(small(model_type, **more))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_keys_that_are_absent_have_the_default_of_the_class(model_type):
    from transformers import AutoConfig

    values = {key: value for key, value in small(model_type).items() if key != "num_key_value_heads"}
    read = read_architecture(values)
    config = AutoConfig.for_model(**values)
    assert read.tied == config.tie_word_embeddings
    assert read.sliding_window == (getattr(config, "sliding_window", None) or None)
    assert read.max_positions == config.max_position_embeddings
    assert read.num_key_value_heads == (getattr(config, "num_key_value_heads", None) or 4)
    if not FAMILIES[model_type].is_latent:
        assert read.head_dim == (getattr(config, "head_dim", None) or 16)


def test_tokens_of_expert_models_pass_as_many_numbers_as_is_published():
    # Model cards: Qwen3-30B-A3B 3.3B, Mixtral 12.9B, gpt-oss-20b 3.6B without the embedding, DeepSeek-V3 37B.
    active = {name: count_parameters(read_architecture(PUBLISHED[name][0])) for name in PUBLISHED}
    assert active["Qwen3-30B-A3B"].active == pytest.approx(3.3e9, rel=0.02)
    assert active["Mixtral-8x7B"].active == pytest.approx(12.9e9, rel=0.01)
    twenty = active["gpt-oss-20b"]
    assert twenty.active - twenty.embedding == pytest.approx(3.6e9, rel=0.01)
    assert active["DeepSeek-V3"].active == pytest.approx(37e9, rel=0.02)
    assert active["Llama-3.1-8B"].active == active["Llama-3.1-8B"].total


def peft_counts(values, targets):
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
    wrapped = get_peft_model(on_meta(values), lora)
    return sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_lora_on_all_linear_is_what_peft_trains(model_type):
    values = small(model_type, first_k_dense_replace=1)
    assert count_lora(read_architecture(values), 4, "all-linear") == peft_counts(values, "all-linear")


@pytest.mark.parametrize("name", ["Qwen2.5-0.5B", "Llama-3.2-1B", "GPT-2", "Qwen3-30B-A3B", "gpt-oss-20b"])
def test_lora_of_published_models_is_what_peft_trains(name):
    values, _ = PUBLISHED[name]
    assert count_lora(read_architecture(values), 4, "all-linear") == peft_counts(values, "all-linear")


@pytest.mark.parametrize(
    ("model_type", "targets"),
    [
        ("llama", ["q_proj", "v_proj"]),
        ("llama", ["self_attn.q_proj", "q_proj", "model.layers.1.mlp.up_proj"]),
        ("llama", ["q_proj", "embed_tokens", "lm_head"]),
        ("llama", r".*layers\.[01]\..*(q|k)_proj"),
        ("gpt2", ["c_proj"]),
        ("gpt2", ["c_attn", "wte", "wpe"]),
        ("qwen2_moe", ["q_proj", "shared_expert_gate", "down_proj"]),
        ("qwen3_moe", ["q_proj", "gate", "down_proj"]),
        ("qwen3_moe", ["q_proj", "gate_proj", "up_proj"]),
        ("mixtral", ["q_proj", "w1", "w2", "w3"]),
        ("deepseek_v3", ["o_proj", "down_proj"]),
        ("gpt_oss", ["q_proj", "o_proj"]),
    ],
)
def test_lora_on_names_is_what_peft_trains(model_type, targets):
    values = small(model_type, first_k_dense_replace=1)
    assert count_lora(read_architecture(values), 4, targets) == peft_counts(values, targets)


@pytest.mark.parametrize(
    ("model_type", "targets", "error", "names"),
    [
        ("llama", ["q_proj", "c_attn"], ConfigError, "'c_attn' matches no linear layer"),
        ("gpt_oss", ["router"], ConfigError, "'router' matches no linear layer"),
        ("qwen3_moe", ["gate_proj"], ConfigError, "both or none"),
        ("qwen3_moe", r".*_proj", ModelError, "can't be told"),
        ("llama", r".*nothing", ConfigError, "matches no linear layer"),
    ],
)
def test_targets_that_nothing_answers_to_are_refused_by_name(model_type, targets, error, names):
    with pytest.raises(error, match=names):
        count_lora(read_architecture(small(model_type)), 4, targets)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"hidden_size": None}, "hidden_size of config.json is missing"),
        ({"num_hidden_layers": "12"}, "num_hidden_layers of config.json is '12'"),
        ({"vocab_size": 0}, "vocab_size of config.json is 0"),
        ({"attention_bias": "no"}, "attention_bias of config.json is 'no'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings of config.json is unclear"),
        ({"model_type": None}, "model_type of config.json is missing"),
        ({"model_type": "mamba"}, "model_type 'mamba'"),
        ({"quantization_config": {"quant_method": "hqq"}}, "quantization_config.bits"),
    ],
)
def test_what_a_config_lacks_or_garbles_is_named(change, names):
    with pytest.raises(ModelError, match=names) as caught:
        read_architecture({**small("llama"), **change})
    assert caught.value.where
    assert caught.value.fix


@pytest.mark.parametrize(
    "key", ["num_local_experts", "num_experts_per_tok", "intermediate_size", "num_attention_heads"]
)
def test_a_missing_size_is_never_guessed(key):
    values = small("mixtral")
    del values[key]
    with pytest.raises(ModelError, match="is missing"):
        read_architecture(values)


def test_a_family_that_no_table_has_is_left_to_the_meta_device():
    architecture = dataclasses.replace(read_architecture(small("llama")), model_type="mamba")
    with pytest.raises(ModelError, match="mamba"):
        count_parameters(architecture)
    assert set(FAMILIES) == set(LAYOUTS)


def test_text_config_is_looked_into_with_what_it_leaves_out():
    # google/gemma-3-4b-it states these alone; heads and vocabulary are the class's.
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34}
    text |= {"intermediate_size": 10_240, "sliding_window": 1024}
    read = read_architecture({"model_type": "gemma3", "torch_dtype": "bfloat16", "text_config": text})
    assert (read.multimodal, read.dtype, read.tied, read.sliding_window) == (True, "bfloat16", True, 1024)
    assert count_parameters(read).total == on_meta(text).num_parameters() == 3_880_263_168
    with pytest.raises(ModelError, match=r"text_config\.tie_word_embeddings"):
        read_architecture({"model_type": "llava", "text_config": small("llama")})
    with pytest.raises(ModelError, match=r"text_config\.hidden_size"):
        read_architecture({"model_type": "llava", "text_config": {"model_type": "llama"}})


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ("bitsandbytes", 4)),
        ({"load_in_8bit": True}, ("bitsandbytes", 8)),
        ({"quant_method": "gptq", "bits": 4}, ("gptq", 4)),
        ({"quant_method": "awq", "w_bit": 4}, ("awq", 4)),
        ({"quant_method": "fp8", "fmt": "e4m3"}, ("fp8", 8)),
        ({"quant_method": "mxfp4"}, ("mxfp4", 4)),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8}}}},
            ("compressed-tensors", 8),
        ),
    ],
)
def test_packed_weights_say_how_and_in_how_many_bits(packed, expected):
    read = read_architecture(small("llama", quantization_config=packed))
    assert read.quantization == Quantization(*expected)


@pytest.mark.parametrize("text", ["{", "[1]", None])
def test_a_folder_without_a_readable_config_says_so(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=re.escape(str(tmp_path / "config.json"))):
        read_config(tmp_path)


def write_weights(path, **tensors):
    header = json.dumps(
        {name: {"dtype": kind, "shape": list(shape)} for name, (kind, shape) in tensors.items()}
    )
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())


def test_stored_numbers_follow_the_index_and_unpack_four_bits(tmp_path):
    assert stored_parameters(tmp_path) is None
    write_weights(tmp_path / "adapter_model.safetensors", a=("F32", (8, 8)))
    assert stored_parameters(tmp_path) is None
    packed = {"w": ("U8", (32, 1)), "w.absmax": ("U8", (1,)), "w.quant_state.bitsandbytes__nf4": ("U8", (9,))}
    write_weights(tmp_path / "one.safetensors", n=("BF16", (8,)), **packed)
    blocks = {"e_blocks": ("U8", (2, 16)), "e_scales": ("U8", (2, 1))}
    write_weights(tmp_path / "two.safetensors", m=("F32", (3, 5)), s=("F32", ()), **blocks)
    write_weights(tmp_path / "stray.safetensors", n=("BF16", (1000,)))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"n": "one.safetensors", "m": "two.safetensors"}}))
    assert stored_parameters(tmp_path) == {"BF16": 8, "NF4": 64, "F32": 16, "MXFP4": 64}
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(ModelError, match=r"two\.safetensors can't be read"):
        stored_parameters(tmp_path)
    index.write_text("{}")
    with pytest.raises(ModelError, match="holds no weight_map"):
        stored_parameters(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, struct.pack("<Q", 9) + b'{"w": {}}'])
def test_a_damaged_weight_file_is_named(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors has"):
        stored_parameters(tmp_path)


@pytest.mark.skipif(not (SMOLLM / "config.json").is_file(), reason="the small model isn't here")
def test_a_local_model_stores_as_many_numbers_as_its_config_tells():
    architecture = read_architecture(read_config(SMOLLM))
    stored = stored_parameters(SMOLLM)
    assert sum(stored.values()) == count_parameters(architecture).total == 134_515_008
    assert set(stored) == {"F32"}
    assert architecture.dtype == "float32"


def test_counting_needs_neither_torch_nor_transformers():
    code = (
        "import sys, tunesmith.plan.parameters\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'heavy import'"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
