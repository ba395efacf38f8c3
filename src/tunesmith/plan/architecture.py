"""The shape of a causal language model, from its config.json alone: no weight, no torch, no transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.plan.families import FAMILIES, Family, QKNorm, Switch

_COUNT_INSTEAD = "install 'tunesmith[train]': the model is then built without weights and counted"


@dataclass(frozen=True)
class Quantization:
    """How published weights are packed. `bits` are a weight's own, without its share of the scales."""

    method: str
    bits: int


@dataclass(frozen=True)
class Latent:
    """Ranks and widths (numbers a head) of DeepSeek's multi-head latent attention (arXiv 2405.04434)."""

    query_rank: int | None
    key_value_rank: int
    plain_dim: int
    rotary_dim: int
    value_dim: int


@dataclass(frozen=True)
class Architecture:
    """The sizes that memory and speed follow from.

    `head_dim` is the width of a query (with latent attention, of its plain and its rotary part together);
    `sliding_window` is in tokens and may hold for some layers only; `max_positions` is in tokens too;
    `attention_bias` is that of queries, keys and values, `output_bias` that of what follows them;
    `qk_norm` tells whether queries and keys are scaled by one head's width or by that of all heads;
    `norms_per_layer` counts those of hidden size; `expert_layers` are the 0-based layers with routed experts.
    `multimodal` says that this is the text part of a larger model, whose other parts nothing here counts.
    """

    model_type: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied: bool
    sliding_window: int | None
    dtype: str | None
    max_positions: int
    num_experts: int = 0
    num_experts_per_token: int = 0
    expert_size: int = 0
    shared_expert_size: int = 0
    expert_layers: tuple[int, ...] = ()
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: QKNorm | None = None
    norms_per_layer: int = 2
    latent: Latent | None = None
    quantization: Quantization | None = None
    multimodal: bool = False

    @property
    def dense_layers(self) -> tuple[int, ...]:
        """The 0-based layers without routed experts."""
        with_experts = set(self.expert_layers)
        return tuple(layer for layer in range(self.num_layers) if layer not in with_experts)


# Other names of the same fact: GPT-2's, and the attribute maps of transformers' classes.
_ALIASES = {
    "hidden_size": ("n_embd",),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "max_position_embeddings": ("n_positions",),
    "num_experts": ("num_local_experts", "n_routed_experts"),
}
# fbgemm_fp8 and fp8: integrations of transformers 5.23; mxfp4: OCP Microscaling Formats v1.0.
_FIXED_BITS = {"fp8": 8, "fbgemm_fp8": 8, "mxfp4": 4}


def read_config(path_or_folder: str | Path) -> dict[str, Any]:
    """The parsed config.json of a local model: the file itself, or the one in its folder.

    Raises:
        ModelError: there is no such file, or it holds no JSON object.
    """
    path = Path(path_or_folder)
    path = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"there is no readable configuration at {path}", where=str(path), fix="name a model's folder"
        ) from error
    except ValueError as error:
        raise ModelError(
            f"{path} is no JSON: {error}", where=str(path), fix="fetch the model's config.json again"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(
            f"{path} holds no JSON object", where=str(path), fix="fetch the model's config.json again"
        )
    return config


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a parsed config.json describes; of a multimodal model, its text part.

    A key that is absent has the default of transformers' class. The sizes that every published file states
    are never filled in: a file without them is damaged.

    Raises:
        ModelError: a key is missing or holds something else than its kind, or FAMILIES lacks the family.
    """
    nested = config.get("text_config")
    reader = _Reader(nested if isinstance(nested, Mapping) else config, config)
    model_type = reader.text.get("model_type")
    if not isinstance(model_type, str):
        raise reader.error("model_type", "is missing")
    if model_type not in FAMILIES:
        raise unknown_family(model_type)
    family = FAMILIES[model_type]
    if reader.nested:
        reader.defaults = family.sizes
    hidden_size, num_heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    num_layers = reader.size("num_hidden_layers")
    parallel = family.parallel_key is not None and reader.switch((family.parallel_key, False))
    latent = _latent(reader) if family.is_latent else None
    slides = family.sliding_key is None or reader.switch((family.sliding_key, False))
    return Architecture(
        model_type=model_type,
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_key_value_heads=_key_value_heads(reader, family, num_heads),
        head_dim=(
            latent.plain_dim + latent.rotary_dim
            if latent
            else _head_dim(reader, family, hidden_size // num_heads)
        ),
        intermediate_size=_intermediate_size(reader, model_type, hidden_size),
        vocab_size=reader.size("vocab_size"),
        tied=_tied(reader, family),
        sliding_window=reader.size_or("sliding_window", family.sliding_window) if slides else None,
        dtype=_dtype(reader),
        max_positions=reader.size_or("max_position_embeddings", family.max_positions) or family.max_positions,
        attention_bias=reader.switch(family.qkv_bias),
        output_bias=reader.switch(family.output_bias),
        mlp_bias=reader.switch(family.mlp_bias),
        qk_norm=family.qk_norm if reader.switch(family.qk_norm_if) else None,
        norms_per_layer=family.norms - parallel,
        latent=latent,
        quantization=_quantization(reader),
        multimodal=reader.nested,
        **_experts(reader, family, num_layers),
    )


def unknown_family(model_type: str) -> ModelError:
    """The error of a family that isn't in the tables."""
    return ModelError(
        f"the sizes of model_type {model_type!r} can't be told from its config.json",
        where="model_type",
        fix=_COUNT_INSTEAD,
    )


class _Reader:
    """Facts of a configuration, each of the right kind or a ModelError that names its key."""

    def __init__(self, text: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
        self.text = text
        self.whole = whole
        self.nested = text is not whole
        self.defaults: Mapping[str, int] = {}

    def error(self, key: str, trouble: str) -> ModelError:
        place = f"text_config.{key}" if self.nested else key
        return ModelError(
            f"{place} of config.json {trouble}",
            where=place,
            fix=f"fetch the model's config.json again; or {_COUNT_INSTEAD}",
        )

    def has(self, key: str) -> bool:
        return any(name in self.text for name in (key, *_ALIASES.get(key, ())))

    def raw(self, key: str) -> Any:
        names = (key, *_ALIASES.get(key, ()))
        return next((self.text[name] for name in names if self.text.get(name) is not None), None)

    def size_or(self, key: str, default: int | None) -> int | None:
        """A number of at least 0; the default where the key is absent, None where it is null."""
        if not self.has(key):
            return default
        value = self.raw(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise self.error(key, f"is {value!r}, not a whole number")
        return value

    def size(self, key: str) -> int:
        value = self.size_or(key, self.defaults.get(key))
        if not value:
            raise self.error(key, "is missing" if value is None else "is 0")
        return value

    def switch(self, rule: Switch) -> bool:
        if isinstance(rule, bool):
            return rule
        key, default = rule
        value = self.text.get(key, default)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"is {value!r}, neither true nor false")
        return value


def _key_value_heads(reader: _Reader, family: Family, num_heads: int) -> int:
    grouped = reader.size_or("num_key_value_heads", family.key_value_heads) if family.grouped else None
    return grouped or num_heads


def _head_dim(reader: _Reader, family: Family, even: int) -> int:
    return (reader.size_or("head_dim", family.head_dim) if family.own_head_dim else None) or even


def _intermediate_size(reader: _Reader, model_type: str, hidden_size: int) -> int:
    if model_type == "gpt2":
        return reader.size_or("n_inner", None) or 4 * hidden_size
    return reader.size("intermediate_size")


def _tied(reader: _Reader, family: Family) -> bool:
    """Of a multimodal model the whole and its text part both may say it; classes differ in whom they hear."""
    stated = {
        each["tie_word_embeddings"]
        for each in (reader.text, reader.whole)
        if each.get("tie_word_embeddings") is not None
    }
    if len(stated) > 1 or not all(isinstance(value, bool) for value in stated):
        raise reader.error("tie_word_embeddings", f"is unclear: {sorted(map(str, stated))}")
    if not stated and reader.nested and not family.sizes:
        raise reader.error("tie_word_embeddings", "is missing")
    return bool(stated.pop()) if stated else family.tied


def _dtype(reader: _Reader) -> str | None:
    for config in (reader.text, reader.whole):
        for key in ("dtype", "torch_dtype"):
            if isinstance(config.get(key), str) and config[key] != "auto":
                return str(config[key]).removeprefix("torch.")
    return None


def _latent(reader: _Reader) -> Latent:
    """Defaults of DeepseekV2Config and DeepseekV3Config, which agree; no query rank when it is null."""
    widths = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    reader.defaults = widths
    return Latent(reader.size_or("q_lora_rank", 1536), *(reader.size(key) for key in widths))


def _experts(reader: _Reader, family: Family, num_layers: int) -> dict[str, Any]:
    if family.experts == "none" or (family.experts == "step" and reader.raw("num_experts") == 0):
        return {}
    expert_size = reader.size(family.expert_size_key)
    layers = list(range(num_layers))
    shared = 0
    if family.experts == "step":
        step, dense = reader.size_or("decoder_sparse_step", 1), reader.text.get("mlp_only_layers") or ()
        layers = [layer for layer in layers if layer not in dense and (layer + 1) % (step or 1) == 0]
        if reader.text["model_type"] == "qwen2_moe":
            shared = reader.size("shared_expert_intermediate_size")
    elif family.experts == "later":
        first = reader.size_or("first_k_dense_replace", family.first_expert_layer) or 0
        layers = layers[first:]
        shared = expert_size * (reader.size_or("n_shared_experts", family.shared_experts) or 0)
    return {
        "num_experts": reader.size("num_experts"),
        "num_experts_per_token": reader.size("num_experts_per_tok"),
        "expert_size": expert_size,
        "shared_expert_size": shared,
        "expert_layers": tuple(layers),
    }


def _quantization(reader: _Reader) -> Quantization | None:
    packed = reader.whole.get("quantization_config") or reader.text.get("quantization_config")
    if packed is None:
        return None
    key = "quantization_config"
    if not isinstance(packed, Mapping):
        raise reader.error(key, "holds no table")
    method, bits = packed.get("quant_method"), packed.get("bits", packed.get("w_bit"))
    # The first files of bitsandbytes name no method.
    if method == "bitsandbytes" or (method is None and {"load_in_4bit", "load_in_8bit"} & set(packed)):
        method, bits = "bitsandbytes", 4 if packed.get("load_in_4bit") else 8
    elif method == "compressed-tensors":
        groups = packed.get("config_groups")
        groups = groups.values() if isinstance(groups, Mapping) else ()
        widths = {(group.get("weights") or {}).get("num_bits") for group in groups}
        bits = widths.pop() if len(widths) == 1 else None
    elif method in _FIXED_BITS:
        bits = _FIXED_BITS[method]
    if not isinstance(method, str):
        raise reader.error(f"{key}.quant_method", "is missing")
    if not isinstance(bits, int):
        raise reader.error(f"{key}.bits", f"is missing, and {method} can have several")
    return Quantization(method, bits)
