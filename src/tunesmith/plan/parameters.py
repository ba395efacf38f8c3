"""How many numbers a model and its LoRA hold, from the architecture alone; and what its files store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tunesmith.errors import ConfigError, ModelError
from tunesmith.plan.architecture import Architecture, Latent, unknown_family
from tunesmith.plan.families import LAYOUTS, Layout

Kind = Literal["attention", "mlp", "experts", "router"]
_HEAD = "lm_head"
# The format's own limit (safetensors, src/tensor.rs): 100 MB of header.
_LONGEST_HEADER = 100_000_000
# Beside a packed weight: its scales and tables. They are no parameters.
_PACKING = re.compile(
    r"\.(absmax|nested_absmax|quant_map|nested_quant_map|SCB|weight_format|weight_scale(_inv)?)$"
    r"|\.quant_state\."
)


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters (not bytes), as transformers 5.23 keeps them, unpacked and without buffers.

    `embedding` holds learned positions too; `head` is 0 when tied; `mlp` are dense layers and shared experts;
    `experts` all routed ones, `active_experts` those that one token passes; `router` has the gate of a shared
    expert; `attention` has sinks; `linear` are the weights and biases of the decoder layers' linear modules,
    which routed experts and routers aren't: there they are plain parameters.
    """

    embedding: int
    head: int
    attention: int
    mlp: int
    experts: int
    router: int
    norms: int
    active_experts: int
    linear: int

    @property
    def total(self) -> int:
        """All parameters."""
        return (
            self.embedding + self.head + self.attention + self.mlp + self.experts + self.router + self.norms
        )

    @property
    def active(self) -> int:
        """Those that one token passes: all but the routed experts that aren't chosen; with the embedding."""
        return self.total - self.experts + self.active_experts


class _Matrix(NamedTuple):
    """A projection: of `stacked` experts, or (0) of one module; `path` is the one in its layer."""

    path: str
    kind: Kind
    inputs: int
    outputs: int
    bias: bool = False
    linear: bool = True
    stacked: int = 0

    @property
    def numbers(self) -> int:
        return (self.inputs + self.bias) * self.outputs * max(self.stacked, 1)


def count_parameters(architecture: Architecture) -> Parameters:
    """Exact numbers of parameters by kind, of the text model alone where it is part of a multimodal one.

    DeepSeek's and GLM's published files also hold a layer for multi-token prediction, which transformers
    doesn't load; it isn't counted.

    Raises:
        ModelError: the family isn't in the tables.
    """
    layout = _layout(architecture)
    kinds: dict[Kind, int] = {"attention": 0, "mlp": 0, "experts": 0, "router": 0}
    linear = 0
    for matrices, num_layers in _kinds_of_layer(architecture, layout):
        for matrix in matrices:
            kinds[matrix.kind] += num_layers * matrix.numbers
            linear += num_layers * matrix.numbers * matrix.linear
    if layout.sinks:
        kinds["attention"] += architecture.num_layers * architecture.num_heads
    width, chosen = architecture.hidden_size, architecture.num_experts_per_token
    return Parameters(
        embedding=sum(rows * width for _, rows in _embeddings(architecture, layout)),
        head=architecture.vocab_size * ((0 if architecture.tied else width) + layout.head_bias),
        **kinds,
        norms=_norms(architecture, layout),
        active_experts=kinds["experts"] * chosen // max(architecture.num_experts, 1),
        linear=linear,
    )


def count_lora(architecture: Architecture, rank: int, targets: str | Sequence[str]) -> int:
    """Trainable numbers of a LoRA of `rank` on `targets`: "all-linear", an expression, or module names.

    An adapter of a projection holds rank * (inputs + outputs) numbers (arXiv 2106.09685, section 4.1). Names
    mean what they mean to peft 0.21: the end of a module's path. For the families whose experts were modules
    before transformers 5 (mixtral, qwen3_moe, olmoe, glm4_moe, deepseek), peft turns "gate", "gate_proj",
    "up_proj" and "down_proj" (w1, w3, w2 in mixtral), and "all-linear" with them, into the router and the
    routed experts: an adapter an expert, of twice the rank for gate and up in one; dense layers and shared
    experts of such models then get none there. peft refuses dropout and DoRA on those. DoRA's magnitudes
    aren't counted.

    Raises:
        ConfigError: a target matches no linear layer, or one half of a projection that is now one.
        ModelError: the family isn't in the tables, or its experts would have to be found by an expression.
    """
    layout = _layout(architecture)
    if isinstance(targets, str) and targets != "all-linear" and not targets.isidentifier():
        if layout.former:
            raise ModelError(
                f"which experts of a {architecture.model_type} model {targets!r} names can't be told here",
                where="lora_target_modules",
                fix="name the modules, or use all-linear",
            )
        pattern = re.compile(targets)
        names = [name for name in _sizes_by_path(architecture, layout) if pattern.fullmatch(name)]
        return _plain_lora(architecture, layout, rank, names or [targets])
    names = [targets] if isinstance(targets, str) else list(targets)
    if targets == "all-linear":
        names = list(_sizes_by_path(architecture, layout, ends=False))
    if layout.former:
        return _lora_of_former(architecture, layout, layout.former, rank, names, targets == "all-linear")
    return _plain_lora(architecture, layout, rank, names)


def stored_parameters(folder: str | Path) -> dict[str, int] | None:
    """Numbers by stored type ("BF16", "F32" ...) of a folder's safetensors files; None where there are none.

    The files are those of `weight_files`, the numbers those of `count_stored`.

    Raises:
        ModelError: a file is damaged, or one that the index names is missing.
    """
    return count_stored(stored_tensors(folder)) or None


def stored_tensors(folder: str | Path) -> dict[str, Any]:
    """`dtype` and `shape` of each tensor in a folder's safetensors files, by its name.

    Only headers are read: 8 bytes of length, then JSON (https://github.com/huggingface/safetensors#format).

    Raises:
        ModelError: a file is damaged, or one that the index names is missing.
    """
    tensors: dict[str, Any] = {}
    for path in weight_files(Path(folder)):
        tensors |= _read_header(path)
    return tensors


def count_stored(tensors: Mapping[str, Any]) -> dict[str, int]:
    """Numbers by stored type of tensors as `stored_tensors` tells them.

    4-bit weights of bitsandbytes and of MXFP4 lie two in a byte: they count two a byte, as "NF4", "FP4" or
    "MXFP4"; scales and tables beside packed weights don't count. GPTQ's and AWQ's words ("I32") count as
    stored.
    """
    stored: dict[str, int] = {}
    four_bit = {name.split(".quant_state.")[0]: name for name in tensors if ".quant_state." in name}
    for name, tensor in tensors.items():
        numbers, dtype = 1, tensor["dtype"]
        for extent in tensor["shape"]:
            numbers *= extent
        if name in four_bit:
            numbers, dtype = 2 * numbers, four_bit[name].rsplit("__", 1)[-1].upper()
        elif name.endswith("_blocks") and f"{name.removesuffix('_blocks')}_scales" in tensors:
            numbers, dtype = 2 * numbers, "MXFP4"
        elif _PACKING.search(name) or f"{name.removesuffix('_scales')}_blocks" in tensors:
            continue
        stored[dtype] = stored.get(dtype, 0) + numbers
    return stored


def _layout(architecture: Architecture) -> Layout:
    if architecture.model_type not in LAYOUTS:
        raise unknown_family(architecture.model_type)
    return LAYOUTS[architecture.model_type]


def _kinds_of_layer(architecture: Architecture, layout: Layout) -> Iterator[tuple[list[_Matrix], int]]:
    """The matrices of a dense layer and of one with experts, and how many of each kind there are."""
    attention = list(_attention(architecture, layout))
    num_with_experts = len(architecture.expert_layers)
    dense = _mlp(architecture, layout, "mlp.", architecture.intermediate_size)
    yield [*attention, *dense], architecture.num_layers - num_with_experts
    yield [*attention, *_experts(architecture, layout)], num_with_experts


def _attention(architecture: Architecture, layout: Layout) -> Iterator[_Matrix]:
    if architecture.latent:
        yield from _latent_attention(architecture, architecture.latent)
        return
    hidden, bias = architecture.hidden_size, architecture.attention_bias
    queries = architecture.num_heads * architecture.head_dim
    keys = architecture.num_key_value_heads * architecture.head_dim
    widths = (queries, keys, keys) if len(layout.qkv) == 3 else (queries + 2 * keys,)
    for name, width in zip(layout.qkv, widths, strict=True):
        yield _Matrix(name, "attention", hidden, width, bias)
    yield _Matrix(layout.output, "attention", queries, hidden, architecture.output_bias)


def _latent_attention(architecture: Architecture, latent: Latent) -> Iterator[_Matrix]:
    """The projections of `DeepseekV3Attention` (models/deepseek_v3/modeling_deepseek_v3.py)."""
    heads, hidden = architecture.num_heads, architecture.hidden_size
    bias, queries, rank = architecture.attention_bias, heads * architecture.head_dim, latent.key_value_rank
    if latent.query_rank:
        yield _Matrix("self_attn.q_a_proj", "attention", hidden, latent.query_rank, bias)
        yield _Matrix("self_attn.q_b_proj", "attention", latent.query_rank, queries)
    else:
        yield _Matrix("self_attn.q_proj", "attention", hidden, queries)
    yield _Matrix("self_attn.kv_a_proj_with_mqa", "attention", hidden, rank + latent.rotary_dim, bias)
    both = heads * (latent.plain_dim + latent.value_dim)
    yield _Matrix("self_attn.kv_b_proj", "attention", rank, both)
    values = heads * latent.value_dim
    yield _Matrix("self_attn.o_proj", "attention", values, hidden, architecture.output_bias)


def _mlp(architecture: Architecture, layout: Layout, prefix: str, size: int) -> Iterator[_Matrix]:
    hidden, bias = architecture.hidden_size, architecture.mlp_bias
    *before, after = (prefix + name.removeprefix("mlp.") for name in layout.mlp)
    for name in before:
        outputs = 2 * size if layout.gated and len(before) == 1 else size
        yield _Matrix(name, "mlp", hidden, outputs, bias)
    yield _Matrix(after, "mlp", size, hidden, bias)


def _experts(architecture: Architecture, layout: Layout) -> Iterator[_Matrix]:
    if not architecture.expert_layers:
        return
    hidden, size, many = architecture.hidden_size, architecture.expert_size, architecture.num_experts
    bias = layout.expert_bias
    yield _Matrix(layout.router, "router", hidden, many, bias, linear=False)
    yield _Matrix("mlp.experts.gate_up_proj", "experts", hidden, 2 * size, bias, False, many)
    yield _Matrix("mlp.experts.down_proj", "experts", size, hidden, bias, False, many)
    if architecture.shared_expert_size:
        yield from _mlp(architecture, layout, f"{layout.shared}.", architecture.shared_expert_size)
    if layout.shared_gate:
        yield _Matrix(layout.shared_gate, "router", hidden, 1)


def _norms(architecture: Architecture, layout: Layout) -> int:
    """Numbers of all norms: those of hidden size and the last one, of queries and keys, of latents."""
    hidden, head = architecture.hidden_size, architecture.head_dim
    a_layer = architecture.norms_per_layer * hidden * layout.norm_numbers
    if architecture.qk_norm == "head":
        a_layer += 2 * head * layout.qk_norm_numbers
    elif architecture.qk_norm == "heads":
        a_layer += (architecture.num_heads + architecture.num_key_value_heads) * head
    if architecture.latent:
        a_layer += (architecture.latent.query_rank or 0) + architecture.latent.key_value_rank
    return architecture.num_layers * a_layer + hidden * layout.norm_numbers


def _embeddings(architecture: Architecture, layout: Layout) -> Iterator[tuple[str, int]]:
    rows = (architecture.vocab_size, architecture.max_positions)
    return zip(layout.embeddings, rows, strict=False)


def _sizes_by_path(architecture: Architecture, layout: Layout, ends: bool = True) -> dict[str, int]:
    """Inputs plus outputs of each module that can have an adapter; of embedding and head too if `ends`."""
    sizes: dict[str, int] = {}
    with_experts = set(architecture.expert_layers)
    dense, sparse = (matrices for matrices, _ in _kinds_of_layer(architecture, layout))
    for layer in range(architecture.num_layers):
        for matrix in sparse if layer in with_experts else dense:
            if matrix.linear:
                sizes[f"{layout.layers}.{layer}.{matrix.path}"] = matrix.inputs + matrix.outputs
    if ends:
        for name, rows in _embeddings(architecture, layout):
            sizes[name] = rows + architecture.hidden_size
        sizes[_HEAD] = architecture.vocab_size + architecture.hidden_size
    return sizes


def _plain_lora(architecture: Architecture, layout: Layout, rank: int, targets: Iterable[str]) -> int:
    sizes = _sizes_by_path(architecture, layout)
    # Each module once, however many targets name it.
    chosen: set[str] = set()
    for target in targets:
        matches = {target} & sizes.keys() or {path for path in sizes if path.endswith(f".{target}")}
        if not matches:
            raise _no_such_target(architecture, target, sizes)
        chosen |= matches
    return rank * sum(sizes[path] for path in chosen)


def _lora_of_former(
    architecture: Architecture,
    layout: Layout,
    former: tuple[tuple[str, ...], str],
    rank: int,
    targets: list[str],
    whole: bool,
) -> int:
    """`_convert_peft_config_moe` of peft 0.21 (utils/transformers_weight_conversion.py), counted.

    `whole` says that the targets are all linear layers.
    """
    halves, second = former
    ends = {target: target.rsplit(".", 1)[-1] for target in targets}
    named = {*ends.values(), "gate", second, *halves} if whole else set(ends.values())
    if 0 < len(named & set(halves)) < len(halves):
        raise ConfigError(
            f"lora_target_modules: {' and '.join(halves)} of a {architecture.model_type} model are one "
            "projection; peft adapts both or none",
            where="lora_target_modules",
            fix=f"name {' and '.join(halves)}, or neither",
        )
    many, hidden, size = architecture.num_experts, architecture.hidden_size, architecture.expert_size
    a_layer = (hidden + many if "gate" in named else 0) + (many * (size + hidden) if second in named else 0)
    if named & set(halves):
        a_layer += len(halves) * many * (hidden + 2 * size)
    modules = [target for target, end in ends.items() if end not in {"gate", second, *halves}]
    return rank * a_layer * len(architecture.expert_layers) + _plain_lora(architecture, layout, rank, modules)


def _no_such_target(architecture: Architecture, target: str, sizes: dict[str, int]) -> ConfigError:
    names = sorted({path.rsplit(".", 1)[-1] for path in sizes})
    return ConfigError(
        f"lora_target_modules: {target!r} matches no linear layer of a {architecture.model_type} model",
        where="lora_target_modules",
        fix=f"it has {', '.join(names)}; or use all-linear",
    )


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files: those of its index, or model.safetensors, or all but adapters.

    Raises:
        ModelError: the index is damaged.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(index, "holds no weight_map") from error
        return [folder / name for name in sorted(names)]
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length <= _LONGEST_HEADER else b""
        header: dict[str, Any] = json.loads(text)
        header.pop("__metadata__", None)
        whole = all(
            isinstance(each["dtype"], str) and isinstance(each["shape"], list) for each in header.values()
        )
    except OSError as error:
        raise ModelError(
            f"the weights at {path} can't be read", where=str(path), fix="fetch the model again"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "has no header of safetensors") from error
    if not whole:
        raise _damaged(path, "has a header without types and shapes")
    return header


def _damaged(path: Path, trouble: str) -> ModelError:
    return ModelError(f"{path} {trouble}", where=str(path), fix="fetch the model again")
