"""What one layer keeps of a token for the backward pass."""

from __future__ import annotations

from tunesmith.plan.architecture import Architecture
from tunesmith.plan.families import LAYOUTS
from tunesmith.plan.workload import Configuration, Workload


def kept_per_token(
    architecture: Architecture,
    workload: Workload,
    configuration: Configuration,
    width: int,
    *,
    experts: bool = False,
    cast_once: bool = False,
) -> float:
    """Bytes that one layer keeps for the backward pass, a token: of dense layers or of those with `experts`.

    Counted at the tensors that autograd saves in layers of transformers 5.23 with torch 2.13 (Llama, Qwen2,
    Qwen3, Gemma, Gemma2, Phi3, Qwen3Moe; 2026-11-25, tests/test_plan_memory.py): the inputs of norms, of
    products with trained weights, of gates, and attention's queries, keys, values and output
    (FlashAttention-2, arXiv 2307.08691, keeps no scores but a sum a head). Liger's kernels (0.8.5) keep
    inputs alone where PyTorch keeps what lies between. `width` is that of a row: a masked attention keeps a
    mask a layer, and keys for each query head. Latent attention isn't counted but put together alike.
    `cast_once` is for passes that are captured, where layers that read the same share its cast (`CastOnce` of
    train/stand_ins.py).
    """
    shape = Shape(architecture, workload, configuration)
    shape.casts_each = shape.casts and not cast_once
    norms = shape.norms()
    attention = shape.attention(width)
    return norms + attention + (shape.experts() if experts else shape.mlp(architecture.intermediate_size))


class Shape:
    """Bytes a token of a layer's parts.

    `value` are bytes of a number that products work with, `stream` of one that goes from layer to layer: fp32
    over fp32 weights, whatever autocast multiplies in.
    """

    def __init__(self, architecture: Architecture, workload: Workload, configuration: Configuration) -> None:
        self.model, self.configuration = architecture, configuration
        self.layout = LAYOUTS[architecture.model_type]
        self.full, self.fused = workload.tuning == "full", configuration.fused
        self.value = 4 if configuration.precision == "fp32" else 2
        self.stream = 4 if self.full else self.value
        self.casts = self.full and self.value == 2
        # Autocast casts what several products read for each of them.
        self.casts_each = self.casts
        self.queries = architecture.num_heads * architecture.head_dim
        self.keys = architecture.num_key_value_heads * architecture.head_dim
        self.values = self.keys
        if architecture.latent:
            self.keys, self.values = self.queries, architecture.num_heads * architecture.latent.value_dim
        self.learns = {part: self.full or part in workload.lora_on for part in ("attention", "mlp")}

    def _norm(self, width: int, dtype: int) -> float:
        """Of a norm over `width` numbers of `dtype` bytes: its input and a root."""
        if self.fused:
            return width * dtype + 4
        # Without a kernel of its own: the input in fp32; and what the trained scale is multiplied with.
        return width * (4 + (dtype if self.full else 0)) + 4

    def norms(self) -> float:
        """Those of hidden size: before a part they read the stream, after it what the part gave."""
        hidden, number = self.model.hidden_size, self.model.norms_per_layer
        before, after = min(number, 2), max(0, number - 2)
        # After a part what is trained is multiplied in fp32 (Gemma2).
        behind = self._norm(hidden, self.value)
        behind += hidden * (4 - self.value) * (self.full and not self.fused)
        return before * self._norm(hidden, self.stream) + after * behind

    def _read(self, hidden: int, products: int, part: str) -> float:
        """What so many products read of one norm."""
        if not self.learns[part]:
            return 0.0
        return hidden * self.value * (products if self.casts_each else 1)

    def attention(self, width: int) -> float:
        """Inputs of its products, and what the kernel keeps."""
        model, value = self.model, self.value
        joint = len(self.layout.qkv) == 1
        kept = self._read(model.hidden_size, 1 if joint else 3, "attention")
        kept += value * (self.queries + self.keys + self.values)
        if joint and not self.fused:
            # Rotated queries and keys lie beside the joint projection.
            kept += value * (self.queries + self.keys)
        kept += value * model.num_heads * (model.latent.value_dim if model.latent else model.head_dim)
        kept += 4 * model.num_heads
        if model.qk_norm and not model.latent:
            rotated = self.queries + self.keys
            heads = model.num_heads + model.num_key_value_heads
            kept += rotated * (value if self.fused else 4 + value * self.full) + 4 * heads
        if model.latent:
            # Down and up again: the compressed and their norms.
            low = model.latent.key_value_rank + (model.latent.query_rank or 0)
            kept += 3 * value * low
        if self.configuration.attention != "varlen":
            repeated = 0 if model.latent else 2 * (self.queries - self.keys)
            kept += value * (width + repeated)
        return kept

    def mlp(self, size: int, part: str = "mlp") -> float:
        """Of a dense feed-forward part: its input, both halves before the gate, and what goes down."""
        first = len(self.layout.mlp) - 1
        kept = self._read(self.model.hidden_size, first, part)
        wide = 2 if self.layout.gated else 1
        if not (self.fused and self.layout.gated and first == 2):
            wide += self.layout.gated
        return kept + self.value * size * (wide + self.learns[part])

    def experts(self) -> float:
        """Of the experts that a token passes: its copy for each, halves, gate, product and output."""
        model, value = self.model, self.value
        chosen = model.num_experts_per_token * value * (2 * model.hidden_size + 4 * model.expert_size)
        shared = self.mlp(model.shared_expert_size) if model.shared_expert_size else 0.0
        routing = model.num_experts * (value + 4) + 24 * model.num_experts_per_token
        alone = self._read(model.hidden_size, 1, "mlp") if not model.shared_expert_size else 0.0
        return chosen + shared + routing + alone
