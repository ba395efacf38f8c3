"""Model families: what their configuration classes default to, and of which modules their layers are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# True and False are what a class fixes; a pair is the key that decides and its default.
Switch = bool | tuple[str, bool]
QKNorm = Literal["head", "heads"]


@dataclass(frozen=True)
class Family:
    """What a family's configuration class says where the file is silent.

    From `models/*/configuration_*.py` of transformers 5.23 (tests/test_architecture.py compares them).
    `key_value_heads` and `head_dim` None: as many as heads; hidden size / heads. `grouped` and
    `own_head_dim` False: so it is whatever the file says. `sizes` are those that the text_config of a
    multimodal model leaves out.
    """

    tied: bool = False
    key_value_heads: int | None = None
    grouped: bool = True
    head_dim: int | None = None
    own_head_dim: bool = True
    sliding_window: int | None = None
    sliding_key: str | None = None
    max_positions: int = 2048
    qkv_bias: Switch = False
    output_bias: Switch = False
    mlp_bias: Switch = False
    qk_norm: QKNorm | None = None
    qk_norm_if: Switch = True
    norms: int = 2
    parallel_key: str | None = None
    experts: Literal["none", "all", "step", "later"] = "none"
    expert_size_key: str = "moe_intermediate_size"
    # "later": the first layer with experts, and the shared experts of a layer.
    first_expert_layer: int = 0
    shared_experts: int = 0
    is_latent: bool = False
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


_ATTENTION: Switch = ("attention_bias", False)
_ATTENTION_ON: Switch = ("attention_bias", True)
_MLP: Switch = ("mlp_bias", False)
_USE: Switch = ("use_bias", False)
_LLAMA = Family(qkv_bias=_ATTENTION, output_bias=_ATTENTION, mlp_bias=_MLP)
_MISTRAL = Family(key_value_heads=8, sliding_window=4096, max_positions=131_072)
_MIXTRAL = Family(
    key_value_heads=8, max_positions=131_072, experts="all", expert_size_key="intermediate_size"
)
_QWEN2 = Family(
    key_value_heads=32,
    sliding_window=4096,
    sliding_key="use_sliding_window",
    max_positions=32_768,
    qkv_bias=True,
)
_QWEN3 = dataclasses.replace(
    _QWEN2, head_dim=128, qkv_bias=_ATTENTION, output_bias=_ATTENTION, qk_norm="head"
)
_GEMMA = Family(
    tied=True,
    key_value_heads=16,
    head_dim=256,
    max_positions=8192,
    qkv_bias=_ATTENTION,
    output_bias=_ATTENTION,
)
_GEMMA2 = dataclasses.replace(_GEMMA, key_value_heads=4, sliding_window=4096, norms=4)
_OLMO2 = Family(qkv_bias=_ATTENTION, output_bias=_ATTENTION, qk_norm="heads")
_COHERE = Family(tied=True, max_positions=8192, qkv_bias=_ATTENTION, output_bias=_ATTENTION, norms=1)
_GLM = Family(key_value_heads=2, head_dim=128, max_positions=131_072, qkv_bias=_ATTENTION_ON)
_DEEPSEEK = Family(
    max_positions=4096,
    qkv_bias=_ATTENTION,
    output_bias=_ATTENTION,
    experts="later",
    first_expert_layer=3,
    shared_experts=1,
    is_latent=True,
)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "granite": _LLAMA,
    "arcee": dataclasses.replace(_LLAMA, max_positions=4096),
    "smollm3": dataclasses.replace(
        _LLAMA, tied=True, key_value_heads=4, sliding_key="use_sliding_window", max_positions=32_768
    ),
    "seed_oss": Family(
        key_value_heads=8,
        head_dim=128,
        max_positions=524_288,
        qkv_bias=_ATTENTION_ON,
        output_bias=("attention_out_bias", False),
        mlp_bias=_MLP,
    ),
    "ernie4_5": Family(
        tied=True,
        key_value_heads=2,
        head_dim=128,
        max_positions=131_072,
        qkv_bias=_USE,
        output_bias=_USE,
        mlp_bias=_USE,
    ),
    "mistral": _MISTRAL,
    "ministral": _MISTRAL,
    "ministral3": dataclasses.replace(_MISTRAL, head_dim=128, sliding_window=None, max_positions=262_144),
    "mixtral": _MIXTRAL,
    "qwen2": _QWEN2,
    "qwen2_moe": dataclasses.replace(_QWEN2, key_value_heads=16, qkv_bias=("qkv_bias", True), experts="step"),
    "qwen3": _QWEN3,
    "qwen3_moe": dataclasses.replace(_QWEN3, key_value_heads=4, head_dim=None, experts="step"),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": dataclasses.replace(
        _GEMMA2,
        max_positions=131_072,
        qk_norm="head",
        sizes={
            "hidden_size": 2304,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "intermediate_size": 9216,
            "vocab_size": 262_208,
        },
    ),
    "phi": Family(
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        qk_norm="head",
        qk_norm_if=("qk_layernorm", False),
        norms=1,
    ),
    "phi3": Family(max_positions=4096),
    "olmo": dataclasses.replace(_OLMO2, qk_norm=None, norms=0),
    "olmo2": _OLMO2,
    "olmo3": dataclasses.replace(_OLMO2, sliding_window=4096),
    "olmoe": dataclasses.replace(
        _OLMO2, max_positions=4096, experts="all", expert_size_key="intermediate_size"
    ),
    "exaone4": Family(key_value_heads=32, sliding_window=4096, qk_norm="head"),
    "cohere": dataclasses.replace(_COHERE, qk_norm="heads", qk_norm_if=("use_qk_norm", False)),
    "cohere2": dataclasses.replace(_COHERE, sliding_window=4096),
    "glm": _GLM,
    "glm4": dataclasses.replace(_GLM, norms=4),
    "glm4_moe": Family(
        key_value_heads=8,
        max_positions=131_072,
        qkv_bias=_ATTENTION,
        qk_norm="head",
        qk_norm_if=("use_qk_norm", False),
        experts="later",
        first_expert_layer=1,
        shared_experts=1,
    ),
    "gpt_oss": dataclasses.replace(
        _MIXTRAL, head_dim=64, sliding_window=128, qkv_bias=_ATTENTION_ON, output_bias=_ATTENTION_ON
    ),
    "deepseek_v2": dataclasses.replace(
        _DEEPSEEK, max_positions=2048, mlp_bias=_MLP, first_expert_layer=0, shared_experts=2
    ),
    "deepseek_v3": dataclasses.replace(_DEEPSEEK, key_value_heads=128),
    "gpt_neox": Family(
        grouped=False, own_head_dim=False, qkv_bias=_ATTENTION_ON, output_bias=_ATTENTION_ON, mlp_bias=True
    ),
    "gpt2": Family(
        tied=True,
        grouped=False,
        own_head_dim=False,
        max_positions=1024,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    ),
    "stablelm": Family(
        key_value_heads=32,
        own_head_dim=False,
        max_positions=4096,
        qkv_bias=("use_qkv_bias", False),
        qk_norm="heads",
        qk_norm_if=("qk_layernorm", False),
        parallel_key="use_parallel_residual",
    ),
    "starcoder2": Family(
        tied=True,
        key_value_heads=2,
        max_positions=4096,
        qkv_bias=("use_bias", True),
        output_bias=("use_bias", True),
        mlp_bias=("use_bias", True),
    ),
}


@dataclass(frozen=True)
class Layout:
    """The names of a family's modules in transformers, and what its configuration doesn't tell of them.

    From `models/*/modeling_*.py` of transformers 5.23. `qkv` are three names, or the one of a joint
    projection; `mlp` are gate, up and down, or the two of which `gated` says whether the first is gate and up
    in one.
    """

    embeddings: tuple[str, ...] = ("model.embed_tokens",)
    layers: str = "model.layers"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    output: str = "self_attn.o_proj"
    mlp: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    gated: bool = True
    # Numbers of a norm for each of its width: 2 with a bias, 0 for one without weights.
    norm_numbers: int = 1
    qk_norm_numbers: int = 1
    head_bias: bool = False
    router: str = "mlp.gate"
    # Routers and routed experts are plain parameters, not linear layers; gpt_oss gives them biases.
    expert_bias: bool = False
    # One number a head in each layer: gpt_oss's attention sinks.
    sinks: bool = False
    shared: str = "mlp.shared_experts"
    shared_gate: str | None = None
    # How peft >= 0.19 reads targets of the time when each expert was a module of its own (transformers < 5):
    # the old names that make up the experts' first projection, and the one of the second.
    former: tuple[tuple[str, ...], str] | None = None


_PLAIN = Layout()
_FUSED_MLP = Layout(mlp=("mlp.gate_up_proj", "mlp.down_proj"))
# `_MOE_TARGET_MODULE_MAPPING` of peft 0.21 (utils/transformers_weight_conversion.py).
_FORMER = Layout(former=(("gate_proj", "up_proj"), "down_proj"))

LAYOUTS: dict[str, Layout] = dict.fromkeys(FAMILIES, _PLAIN) | {
    "arcee": Layout(mlp=("mlp.up_proj", "mlp.down_proj"), gated=False),
    "phi": Layout(
        output="self_attn.dense",
        mlp=("mlp.fc1", "mlp.fc2"),
        gated=False,
        norm_numbers=2,
        qk_norm_numbers=2,
        head_bias=True,
    ),
    "phi3": dataclasses.replace(_FUSED_MLP, qkv=("self_attn.qkv_proj",)),
    "glm": _FUSED_MLP,
    "glm4": _FUSED_MLP,
    "olmo": Layout(norm_numbers=0),
    "mixtral": Layout(former=(("w1", "w3"), "w2")),
    "qwen2_moe": Layout(shared="mlp.shared_expert", shared_gate="mlp.shared_expert_gate"),
    "qwen3_moe": _FORMER,
    "olmoe": _FORMER,
    "glm4_moe": _FORMER,
    "deepseek_v2": _FORMER,
    "deepseek_v3": _FORMER,
    "gpt_oss": Layout(router="mlp.router", expert_bias=True, sinks=True),
    "gpt_neox": Layout(
        embeddings=("gpt_neox.embed_in",),
        layers="gpt_neox.layers",
        qkv=("attention.query_key_value",),
        output="attention.dense",
        mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        gated=False,
        norm_numbers=2,
    ),
    "gpt2": Layout(
        embeddings=("transformer.wte", "transformer.wpe"),
        layers="transformer.h",
        qkv=("attn.c_attn",),
        output="attn.c_proj",
        mlp=("mlp.c_fc", "mlp.c_proj"),
        gated=False,
        norm_numbers=2,
    ),
    "stablelm": Layout(norm_numbers=2),
    "starcoder2": Layout(mlp=("mlp.c_fc", "mlp.c_proj"), gated=False, norm_numbers=2),
}
