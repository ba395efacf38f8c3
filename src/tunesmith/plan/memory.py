"""What a training needs of each device's memory, item by item, from sizes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tunesmith.plan.activations import Shape, kept_per_token
from tunesmith.plan.architecture import Architecture
from tunesmith.plan.calibration import constant
from tunesmith.plan.parameters import Parameters
from tunesmith.plan.workload import (
    Batch,
    Configuration,
    Workload,
    filled_up,
    largest_batch,
    num_shapes,
    usual_batch,
)

GIB = 2**30
# NormalFloat4 with its quantised constants: 4.127 bits a weight (QLoRA, arXiv 2305.14314, section 3).
FOUR_BIT_BYTES = 4.127 / 8
# TRL 1.16 (kernels/chunked_logprob.py, trainer/utils.py) has tiles of so many tokens and words of logits.
TILE_TOKENS, TILE_WORDS = 4096, 32_768
# Buffers of answers being sampled are a multiple of this (train/decode.py), and are kept while training if
# they hold at most this share of the device.
_ROUND, _SHARE_KEPT = 64, 0.02
# How likely the run's largest micro-batch is no larger than taken here.
_LOW, _EXPECTED, _HIGH = 0.05, 0.5, 0.95

Items = Mapping[str, float]


@dataclass(frozen=True)
class Memory:
    """GiB of one device, by what they are for, at the moment of the step that needs most.

    `items` add up to `expected`; `low` and `high` have another largest micro-batch, and no or more
    fragmentation. `graphs` is what captured passes take beyond a step that isn't captured: they are laid out
    only where they have room beside one (`_has_room` of train/captured.py), so a configuration fits when
    `needed` does. `eager_most` is the high estimate of a step that isn't captured, beside the context;
    `kept` are activations of the largest micro-batch, whenever in a step most is needed.
    """

    items: Items
    low: float
    expected: float
    high: float
    eager_most: float
    kept: float

    @property
    def allocated(self) -> float:
        """What torch.cuda.max_memory_allocated will say: all but the context and fragmentation."""
        return sum(gib for name, gib in self.items.items() if name not in ("context", "fragmentation"))

    @property
    def graphs(self) -> float:
        """What captured passes take where there is room for it."""
        return self.items.get("graphs", 0.0)

    @property
    def needed(self) -> float:
        """What has to be there."""
        return self.expected - self.graphs

    @property
    def beside_context(self) -> float:
        """What has to be free: a process's context is there before."""
        return self.needed - self.items.get("context", 0.0)

    def fits(self, free_gib: float, margin: float = 0.1, *, context_is_taken: bool = True) -> bool:
        """Whether a share of `margin` is left over of `free_gib`.

        A probed device's free memory is what is left beside the context, a table's is all that it has.
        """
        return (self.beside_context if context_is_taken else self.needed) <= free_gib * (1 - margin)


def estimate_memory(
    architecture: Architecture,
    parameters: Parameters,
    workload: Workload,
    configuration: Configuration,
    *,
    largest: Batch | None = None,
    device_gib: float | None = None,
) -> Memory:
    """The memory of a run on each of its devices.

    `largest` is the largest micro-batch where it is known; otherwise it is what `Lengths` expects.
    `device_gib` is all of a device's memory (None: taken as large); what is kept of sampling depends on it.

    Formulas: 16 bytes a trained fp32 weight under AdamW (weight, gradient, two moments; ZeRO, arXiv
    1910.02054, section 3.1, where fp32 is the master copy itself and 16-bit casts come and go), shared out as
    its section 5 says; what layers keep for the backward pass as `kept_per_token`; logits as TRL's tiles. An
    adapter on a 4-bit base (paged optimizers, unpacked weights) and sharding are not measured.
    """
    counts = _Counts(architecture, parameters, workload, configuration, device_gib)
    fragmentation, error = constant("memory.fragmentation"), constant("memory.error")

    def at(certainty: float, fragmented: float) -> Items:
        batch = largest or largest_batch(workload, configuration, certainty)
        return counts.items(batch, fragmented)

    expected, highest = at(_EXPECTED, fragmentation), at(_HIGH, 2 * fragmentation)
    kept, _ = counts.kept(largest or largest_batch(workload, configuration, _EXPECTED), cast_once=True)
    return Memory(
        MappingProxyType(expected),
        sum(at(_LOW, 0.0).values()) * (1 - error),
        sum(expected.values()),
        sum(highest.values()) * (1 + error),
        sum(gib for name, gib in highest.items() if name not in ("graphs", "context")) * (1 + error),
        kept / GIB,
    )


class _Counts:
    """Bytes, and at what moment of a step most of them are there."""

    def __init__(
        self,
        architecture: Architecture,
        parameters: Parameters,
        workload: Workload,
        configuration: Configuration,
        device_gib: float | None,
    ) -> None:
        self.model, self.numbers, self.work, self.how = architecture, parameters, workload, configuration
        self.shape = Shape(architecture, workload, configuration)
        self.full, self.value, self.stream = self.shape.full, self.shape.value, self.shape.stream
        self.trained = parameters.total if self.full else workload.num_lora_params
        self.products = parameters.linear + parameters.experts
        self.vocabulary = architecture.vocab_size * architecture.hidden_size
        self.sampling = self._sampling()
        small = device_gib is None or self.sampling / GIB <= _SHARE_KEPT * device_gib
        self.keeps_sampling = small and configuration.device == "cuda"
        devices = configuration.num_devices
        self.of_weights = devices if configuration.sharding == "fsdp" else 1
        self.of_states = devices if configuration.sharding in ("fsdp", "zero2") else 1

    def items(self, batch: Batch, fragmented: float) -> dict[str, float]:
        """GiB by name, at the moment that needs most."""
        steady = self._steady()
        most = max(self._moments(batch), key=lambda moment: sum(moment.values()))
        if self.how.captured:
            steady["graphs"] = self._graphs(batch, sum(most.values()))
        items = {name: steady.get(name, 0.0) + most.get(name, 0.0) for name in steady | most}
        items = {name: size / GIB for name, size in items.items() if size}
        if self.how.device == "cuda":
            items["fragmentation"] = fragmented * sum(most.values()) / GIB
        return items | {"context": constant(f"memory.context_{self.how.device}")}

    def _steady(self) -> dict[str, float]:
        """What is there all the time."""
        work, value = self.work, self.value
        frozen = 4.0 if self.full else float(value)
        weights = self.numbers.total * frozen
        if work.tuning == "qlora":
            weights -= self.numbers.linear * (value - FOUR_BIT_BYTES)
        reference = self.numbers.total * frozen if work.reference == "model" else 0.0
        others = work.num_teacher_params * value + reference
        return {
            "weights": weights / self.of_weights,
            "lora": 0.0 if self.full else 4.0 * self.trained / self.of_weights,
            "optimizer": work.optimizer_bytes * self.trained / self.of_states,
            "reference or teacher": others / self.of_weights,
            "sampling": self.sampling if self.keeps_sampling else 0.0,
            "gradient buckets": self._buckets(),
        }

    def _buckets(self) -> float:
        """What sharding keeps beside: copies of all gradients for DDP to send (torch's Reducer); of FSDP two
        gathered layers and both ends of the model."""
        if self.how.sharding == "ddp":
            return 4.0 * self.trained
        if self.how.sharding == "fsdp":
            layers = self.products / max(1, self.model.num_layers)
            return (2 * layers + self.numbers.embedding + self.numbers.head) * self.value
        return 0.0

    def _graphs(self, largest: Batch, eager: float) -> float:
        """What captured passes take beyond the most that a step takes which isn't captured, `eager`.

        Laid out are casts and gradients that graphs read and write (train/stand_ins.py), and the ends of each
        graph. A shape's first pass is no graph's, and mostly meets what others laid out. But the largest may
        come at the first step, before moments and graphs are there: where the usual row is filled up to it.
        Then the most is there while it is captured, when another gradient of each weight is made beside the
        one that is kept, or at a replay, when gradients are handed out in fp32.
        """
        usual, shapes = usual_batch(self.work, self.how).num_tokens, num_shapes(self.work, self.how)
        ends = shapes * 2 * self.stream * self.model.hidden_size * usual
        if not self.full:
            return 2 * self.value * self.trained + ends
        gradients = float(self.value * self.products + 4 * (self.numbers.embedding + self.numbers.norms))
        laid_out = (2 * self.products if self.shape.casts else 0) + gradients + ends
        workspace = constant("memory.workspace") * GIB
        handed_out = 4.0 * self.trained * (2 if self.how.accumulation > 1 else 1) + workspace
        # A tied head's own gradient is there already.
        handed_out += 0.0 if self.numbers.head else 4.0 * self.vocabulary
        if largest.num_tokens > usual or self.how.checkpointing:
            return laid_out + max(0.0, handed_out - eager)
        kept, _ = self.kept(largest, cast_once=True)
        captured = max(kept, gradients) + self._over(largest.num_tokens) + workspace
        moments = [captured, handed_out]
        if shapes > 1:
            tokens = _filled_below(largest.num_tokens)
            moments += [sum(each.values()) for each in self._moments(Batch(tokens, tokens))]
        return max(0.0, laid_out + max(moments) - eager)

    def _sampling(self) -> float:
        """Keys and values of all answers, and a step's logits (`num_bytes` of train/decoder.py)."""
        if not self.work.num_sampled:
            return 0.0
        room = -(-self.work.lengths.longest // _ROUND) * _ROUND
        width = self.shape.keys + self.shape.values
        cache = self.model.num_layers * width * self.value * room
        return self.work.num_sampled * (cache + 16.0 * self.model.vocab_size)

    def _moments(self, batch: Batch) -> list[dict[str, float]]:
        """What is there beside the steady items, at each moment of a step that could be the largest."""
        tokens, hidden = batch.num_tokens, self.model.hidden_size
        gradients = 4.0 * self.trained / self.of_states
        of_head = 4.0 * self.vocabulary if self.full else 0.0
        # Of several micro-batches the second finds gradients there.
        before = gradients if self.how.accumulation > 1 or not self.full else of_head
        casts = float(self.value * self.products) if self.shape.casts else 0.0
        kept, layer = self.kept(batch)
        over = self._over(tokens)
        workspace = constant("memory.workspace") * GIB if self.how.device == "cuda" else 0.0
        logits = self._logits(tokens)
        head = {
            "activations": kept + (0.0 if self.how.checkpointing else self._merged()),
            "casts": 0.0 if self.how.checkpointing else casts,
            "logits": logits,
            "gradients": before + (of_head if self.how.accumulation > 1 else 0.0),
            "temporary": workspace,
        }
        layers = self.model.num_layers
        back = {
            "activations": kept + (layer if self.how.checkpointing else self._merged()),
            "casts": casts / layers if self.how.checkpointing else casts,
            "gradients": before,
            "temporary": over + workspace,
        }
        end = {"gradients": gradients, "temporary": of_head + workspace}
        moments = [head, back, end]
        if self.how.checkpointing and casts:
            # Autocast keeps its casts until the forward pass is over; recomputed layers make their own.
            beside = gradients if self.how.accumulation > 1 else 0.0
            moments.append(head | {"casts": casts, "logits": logits / 2, "gradients": beside})
        if self.work.reference in ("model", "adapter"):
            # Asked behind the policy's forward pass, whose activations wait (TRL 1.16, dpo_trainer.py).
            passing = tokens * (3 * self.value * self.model.intermediate_size + 2 * self.stream * hidden)
            before = gradients if self.how.accumulation > 1 else 0.0
            asked = {"temporary": passing + workspace, "gradients": before, "logits": logits / 2}
            moments.append(head | asked)
        if self.work.num_sampled:
            # Prompts are read at once, and their keys and values copied; nothing waits for a gradient.
            cache = 0.0 if self.keeps_sampling else self.sampling
            moments.append({"sampling": cache, "temporary": self.sampling / 2 + workspace})
        return moments

    def kept(self, batch: Batch, *, cast_once: bool = False) -> tuple[float, float]:
        """Bytes that all layers and the last norm keep for the backward pass, and those of one layer."""
        model, hidden = self.model, self.model.hidden_size
        with_experts = len(model.expert_layers)
        parts = (model, self.work, self.how, batch.width)
        dense = kept_per_token(*parts, cast_once=cast_once)
        sparse = kept_per_token(*parts, experts=True, cast_once=cast_once) if with_experts else 0.0
        if not self.full:
            dense += self._low_per_token()
        last = self.stream * (hidden + 2 * model.head_dim) + 4 + 8
        if not self.shape.fused and self.full:
            last += 4 * hidden
        layer = max(sparse, dense if model.dense_layers else 0.0)
        if self.how.checkpointing:
            # arXiv 1604.06174: what goes into each layer, and one layer at a time.
            return batch.num_tokens * (model.num_layers * self.stream * hidden + last), (
                batch.num_tokens * layer
            )
        layers = len(model.dense_layers) * dense + with_experts * sparse
        return batch.num_tokens * (layers + last), batch.num_tokens * layer

    def _low_per_token(self) -> float:
        """What a layer's adapters make of a token before it is widened again (train/lora_linear.py)."""
        # An adapter holds rank * (inputs + outputs) numbers: here of seven projections.
        hidden, wide = self.model.hidden_size, self.model.intermediate_size
        rank = self.work.num_lora_params / self.model.num_layers / (8 * hidden + 3 * (hidden + wide))
        return 7 * rank * self.value

    def _merged(self) -> float:
        """Adapters on experts are added to a copy of all experts in every layer (peft 0.21, ParamWrapper)."""
        if self.full or not self.model.num_experts or "mlp" not in self.work.lora_on:
            return 0.0
        return float(self.numbers.experts * self.value)

    def _over(self, num_tokens: int) -> float:
        """Gradients within a layer, beside all that is kept, at their most: of its feed-forward part, or of
        attention and norms. Counted as bytes alive in a backward pass (tests/test_plan_memory.py)."""
        hidden, value, fused = self.model.hidden_size, self.value, self.shape.fused
        wide = self.model.intermediate_size if self.model.dense_layers else 0
        if self.model.expert_layers:
            wide = max(wide, 2 * self.model.num_experts_per_token * self.model.expert_size)
        feed = value * wide * (1 if fused else 3) + self.stream * hidden
        around = (18 if self.shape.casts else 5 * value) if fused else (22 if value == 2 else 28)
        return float(num_tokens * max(feed, around * hidden))

    def _logits(self, num_tokens: int) -> float:
        """The head going back: a tile of logits, the piece of a weight that is cast for it, and of labelled
        tokens the hidden states, their gradient in fp32 and as it goes on."""
        vocab, hidden = self.model.vocab_size, self.model.hidden_size
        labelled = max(1.0, num_tokens * self.work.labelled_share)
        if self.work.whole_logits:
            # The logits, their log-probabilities and the gradient.
            return 3 * 4.0 * num_tokens * vocab
        words, rows = min(vocab, TILE_WORDS), min(labelled, TILE_TOKENS)
        # A tile is as wide for a small vocabulary too.
        tile = rows * TILE_WORDS * self.value
        if self.how.device != "cuda":
            # Without Triton eight of fp32 and one of booleans lie beside it (`_backward_tile` there).
            tile += rows * words * 33
        cast = words * hidden * self.value if self.shape.casts else 0.0
        return float(tile + cast + labelled * hidden * (2 * self.stream + 4))


def _filled_below(num_tokens: int) -> int:
    """The longest row that is filled up to less than one filled up to `num_tokens`."""
    return next((each for each in range(num_tokens - 1, 0, -1) if filled_up(each) < num_tokens), 1)
