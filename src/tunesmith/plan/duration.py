"""How long a step and a run take: what there is to compute and to move, at a machine's rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from types import MappingProxyType

from tunesmith.errors import ConfigError
from tunesmith.plan.activations import Shape
from tunesmith.plan.architecture import Architecture
from tunesmith.plan.calibration import constant
from tunesmith.plan.hardware import Machine
from tunesmith.plan.parameters import Parameters
from tunesmith.plan.workload import Batch, Configuration, Workload, num_shapes, usual_batch

# Passes over a layer's weights: forwards, to its inputs, to its weights.
_FORWARD = 1
# A probe are so many steps, each logged, of which the first, in which kernels are loaded, don't count. Where
# passes are captured, most lengths of a row have come twice in 40, and are replayed (train/captured.py).
PROBE_STEPS, PROBE_STEPS_CAPTURED, PROBE_WARM = 20, 40, 4
# Steps of a captured run that take so much longer than its fastest are no graph's, or capture one.
_NOT_CAPTURED = 1.4
# A probe of fewer steps has no slope.
_FEWEST_PROBED = 4


@dataclass(frozen=True)
class Duration:
    """Seconds, by what takes them; `items` add up to `expected`."""

    items: Mapping[str, float]
    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class Probe:
    """What real steps took: `fixed_s` and `per_token_s` seconds, and how far steps lie off (a share)."""

    fixed_s: float
    per_token_s: float
    error: float

    def step_s(self, num_tokens: float) -> float:
        """Seconds of a step over so many tokens."""
        return self.fixed_s + self.per_token_s * num_tokens


def probed_rows(rows: Sequence[Mapping[str, float]], mean_tokens: float, *, captured: bool = False) -> Probe:
    """What the rows of metrics.jsonl say of a run that logged each step, the first ones left out.

    A step's seconds are those from one log to the next: a log waits for the device, which is behind Python
    where passes are captured (1.5B: Python was done after 0.047 of 0.107 s, H100, 2026-11-26), and collation
    counts as well. Where tokens aren't counted they are `mean_tokens`.

    Raises:
        ValueError: there are fewer than two rows with a loss.
    """
    logged = [row for row in rows if "step_s" in row]
    told = [
        (row["tokens_per_s"] * row["step_s"] if "tokens_per_s" in row else mean_tokens,
         row["time_s"] - before["time_s"])
        for before, row in pairwise(logged)
    ]  # fmt: skip
    # The first row has no step before it.
    return probed(told[PROBE_WARM - 1 :] or told, captured=captured)


def probed(steps: Sequence[tuple[float, float]], *, captured: bool = False) -> Probe:
    """The line through (tokens, seconds) of real steps, least squares without the steps that took far longer.

    With fewer than four steps, or a slope or a start below nothing, seconds are taken for proportional to
    tokens, or for the same whatever the tokens, whichever is nearer. Of a `captured` run those steps count
    that took about as long as its fastest: the others meet a shape for the first time or capture it, which is
    another item of the plan.

    Raises:
        ValueError: there are no steps.
    """
    if not steps:
        raise ValueError("a probe needs a step")
    usual = median(seconds / max(tokens, 1.0) for tokens, seconds in steps)
    typical = median(seconds for _, seconds in steps)
    # A first step that loads kernels, one that captures a shape or waits for a disk; a short step isn't one
    # only because Python takes as long for it as for others.
    kept = [(t, s) for t, s in steps if s <= 2 * max(typical, usual * t)]
    if captured:
        fast = min(seconds for _, seconds in steps)
        rate = min(seconds / max(tokens, 1.0) for tokens, seconds in steps)
        kept = [(t, s) for t, s in steps if s <= _NOT_CAPTURED * max(fast, rate * t)]
    tokens, seconds = [t for t, _ in kept], [s for _, s in kept]
    mean_t, mean_s = fmean(tokens), fmean(seconds)
    spread = sum((t - mean_t) ** 2 for t in tokens)
    # All lines go through the mean, as a run's duration is a sum.
    lines = [(0.0, mean_s / max(mean_t, 1.0)), (mean_s, 0.0)]
    if len(kept) >= _FEWEST_PROBED and spread > 0:
        slope = sum((t - mean_t) * (s - mean_s) for t, s in kept) / spread
        if slope >= 0 and mean_s >= slope * mean_t:
            lines = [(mean_s - slope * mean_t, slope)]

    def off(line: tuple[float, float]) -> float:
        return fmean(abs(line[0] + line[1] * t - s) / s for t, s in kept)

    fixed, slope = min(lines, key=off)
    return Probe(fixed, slope, off((fixed, slope)))


def estimate_step(
    architecture: Architecture,
    parameters: Parameters,
    workload: Workload,
    configuration: Configuration,
    machine: Machine,
    *,
    batch: Batch | None = None,
) -> Duration:
    """Seconds of an optimizer step; `batch` is a micro-batch as most are (None: by the lengths).

    Work over rates (roofline, Williams et al. 2009, doi 10.1145/1498765.1498785). Products: 2 FLOP for each
    weight and token forwards, as many to the inputs, and to the weights where those are trained (arXiv
    2001.08361, section 2.1). Attention: 2 products forwards and 5 backwards over half of all pairs
    (FlashAttention-2, arXiv 2307.08691, section 4.1), of documents as long as they are. Bytes: each
    element-wise kernel reads and writes once; an adapter's low-rank products are bytes as well (inputs and
    outputs of each projection, read and written eight times in all; train/lora_linear.py). Efficiencies are
    those of calibration.toml. Python launches what isn't captured while the device works: the slower counts.
    Sharding, expert layers and cards other than the H100 are not measured.

    Raises:
        ConfigError: the table has no rate for this machine's chip in this precision.
    """
    step = _Step(architecture, parameters, workload, configuration, machine)
    items = step.items(batch or usual_batch(workload, configuration))
    total, error = sum(items.values()), constant("run.step_error")
    return Duration(MappingProxyType(items), total * (1 - error), total, total * (1 + error))


def estimate_duration(
    architecture: Architecture,
    parameters: Parameters,
    workload: Workload,
    configuration: Configuration,
    machine: Machine,
    *,
    probe: Probe | None = None,
    stored_bytes: int | None = None,
    download_s: float = 0.0,
) -> Duration:
    """Seconds of the whole run, from the start of the process to the saved model.

    With a `probe` the steps take what it says, within the spread of its own steps, and the estimate is not
    asked. `stored_bytes` are those of the base's files (None: two a weight).

    Raises:
        ConfigError: as `estimate_step`, without a probe.
    """
    if probe:
        a_step = probe.step_s(workload.lengths.mean * workload.global_batch_size / configuration.num_devices)
        error = max(0.05, 2 * probe.error)
    else:
        a_step = estimate_step(architecture, parameters, workload, configuration, machine).expected
        error = constant("run.step_error")
    error = math.hypot(error, workload.mean_error)
    disk = constant("run.disk") * 1e9
    lengths, full = workload.lengths, workload.tuning == "full"
    trained = parameters.total if full else workload.num_lora_params
    # A row that is only read forwards costs a third of one that is learned, or half with an adapter.
    evaluated = workload.num_eval_rows * workload.num_evaluations / workload.global_batch_size
    items = {
        "download": download_s,
        "start": constant("run.start"),
        "load": (stored_bytes or 2 * parameters.total) / disk,
        "tokenise": lengths.num_rows * lengths.mean / constant("run.tokens"),
        "capture": num_shapes(workload, configuration) * constant("gpu.capture")
        if configuration.captured
        else 0.0,
        "steps": workload.num_steps * a_step,
        "evaluation": evaluated * a_step / (3 if full else 2),
        # Weights and two moments in fp32.
        "checkpoints": workload.num_checkpoints * 12 * trained / disk,
        "save": 4 * trained / disk,
    }
    if workload.reference == "precomputed":
        passes = lengths.num_rows / workload.global_batch_size
        items["reference"] = passes * a_step / (3 if full else 2)
    judged = items["steps"] + items["evaluation"] + items.get("reference", 0.0)
    total = sum(items.values())
    # What lies beside the steps depends on disks and networks that nobody measured.
    beside = total - judged
    low, high = judged / (1 + error) + 0.6 * beside, judged * (1 + error) + 2 * beside
    return Duration(MappingProxyType(items), low, total, high)


class _Step:
    """Work of a step, and the rates it is done at."""

    def __init__(
        self,
        architecture: Architecture,
        parameters: Parameters,
        workload: Workload,
        configuration: Configuration,
        machine: Machine,
    ) -> None:
        self.model, self.numbers, self.work, self.how = architecture, parameters, workload, configuration
        self.machine, self.shape = machine, Shape(architecture, workload, configuration)
        self.full = workload.tuning == "full"
        self.is_cpu = configuration.device != "cuda"
        self.peak, self.bandwidth = self._rates()
        self.active = parameters.linear + parameters.active_experts
        self.vocabulary = architecture.vocab_size * architecture.hidden_size
        self.trained = parameters.total if self.full else workload.num_lora_params
        self.again = 1 if configuration.checkpointing else 0
        self.asked = 1 if workload.reference in ("model", "adapter") else 0

    def _rates(self) -> tuple[float, float]:
        """FLOP and bytes a second at the chip's best."""
        precision = self.how.precision
        peak = self.machine.peak_tflops(precision)
        if self.is_cpu and peak is None:
            peak = self.machine.peak_tflops("fp32")
        bandwidth = self.machine.chip.bandwidth_gb_s if self.machine.chip else None
        if self.is_cpu and bandwidth is None:
            bandwidth = constant("cpu.bandwidth")
        if peak is None or bandwidth is None:
            raise ConfigError(
                f"nothing is known of how fast {self.machine.name} is in {precision}",
                where="hardware",
                fix="measure it with --probe, or name another machine",
            )
        return peak * 1e12, bandwidth * 1e9

    def _share(self, name: str) -> float:
        """An efficiency; CPUs have one for products, and reach the bandwidth that is measured."""
        if not self.is_cpu:
            own = name == "products" and self.how.precision == "fp32"
            return constant("gpu.products_fp32" if own else f"gpu.{name}")
        if name in ("products", "attention"):
            return constant("cpu.products_fp32" if self.how.precision == "fp32" else "cpu.products_bf16")
        return 1.0

    def items(self, batch: Batch) -> dict[str, float]:
        """Seconds of a step by what takes them."""
        number = self.how.accumulation
        passes = {
            "products": number * self._products(batch.num_tokens),
            "attention": number * self._attention(batch),
            "element-wise": number * self._elementwise(batch.num_tokens),
            "adapters": 0.0 if self.full else number * self._adapters(batch.num_tokens),
        }
        items = passes | {
            "launches": number * self._launches(sum(passes.values()) / number),
            "optimizer": self._optimizer(),
            "sampling": self._sampling(),
            "communication": self._communication(),
        }
        if not self.is_cpu:
            items["step"] = constant("gpu.step")
        return {name: seconds for name, seconds in items.items() if seconds}

    def _product_s(self, flop: float, num_tokens: float) -> float:
        many = num_tokens * self.model.hidden_size
        half = 0.0 if self.is_cpu else constant("gpu.products_half")
        return flop / (self.peak * self._share("products") * many / (many + half))

    def _products(self, num_tokens: int) -> float:
        """Of a micro-batch; for few tokens the weights' own bytes count."""
        passes = _FORWARD + 1 + self.full + self.again + self.asked
        labelled = num_tokens * self.work.labelled_share
        # The head's logits are computed again on the way back (TRL 1.16, kernels/chunked_logprob.py).
        head = 2 * self.vocabulary * labelled * (_FORWARD + 2 + self.full + self.asked)
        teacher = 2 * self.work.num_teacher_params * num_tokens
        flop = 2 * self.active * num_tokens * passes + head + teacher
        moved = self.shape.value * (self.active * passes + self.vocabulary)
        return max(self._product_s(flop, num_tokens), moved / (self.bandwidth * self._share("bandwidth")))

    def _attention(self, batch: Batch) -> float:
        """Of a micro-batch, over documents as long as they are, or over rows with their padding."""
        lengths, texts = self.work.lengths, self.work.texts_per_row
        mean, deviation = lengths.mean / texts, lengths.deviation / texts
        squares = mean**2 + deviation**2
        seen = squares / mean
        number, half = float(self.how.micro_batch * texts), 0.5
        products = 2 * (_FORWARD + self.again + self.asked) + 5
        if self.how.attention != "varlen":
            # Masked kernels compute what the mask hides.
            number, half = batch.num_tokens / batch.width, 1.0
            squares, seen = float(batch.width**2), float(batch.width)
        wide = self.model.num_heads * self.model.head_dim
        window = self.model.sliding_window
        if window and seen > window:
            squares *= window / seen
        flop = products * 2 * wide * squares * half * number * self.model.num_layers
        # In fp32 products are so slow that no document is too short.
        short = not self.is_cpu and self.how.precision != "fp32"
        slow = seen / (seen + constant("gpu.attention_half")) if short else 1.0
        return flop / (self.peak * self._share("attention") * slow)

    def _elementwise(self, num_tokens: int) -> float:
        """Norms, residuals, gates, rotations and casts of a micro-batch: how often a number is moved."""
        model, value, stream = self.model, self.shape.value, self.shape.stream
        fused = self.how.fused
        wide = model.intermediate_size if not model.expert_layers else (
            model.num_experts_per_token * model.expert_size + model.shared_expert_size
        )  # fmt: skip
        # Two norms and two residuals, forwards and back; unfused a norm is eight kernels.
        moved = (22 * stream if fused else 46 * 4) * model.hidden_size
        moved += (8 if fused else 14) * value * wide
        moved += (8 if fused else 20) * value * (self.shape.queries + self.shape.keys)
        if self.shape.casts:
            moved += 2 * (2 if self.how.captured else 5) * (stream + value) * model.hidden_size
        layers = model.num_layers * moved * num_tokens * (1 + 0.35 * (self.again + self.asked))
        weights = self._casts_of_weights() if self.shape.casts else 0.0
        return layers / (self.bandwidth * self._share("elementwise")) + weights / (
            self.bandwidth * self._share("bandwidth")
        )

    def _casts_of_weights(self) -> float:
        """Bytes a micro-batch: weights to 16 bit, gradients back; all but the first are added up in fp32."""
        added = 12 * (1 - 1 / self.how.accumulation)
        # Graphs copy gradients to where they are kept (train/captured.py).
        return self.numbers.linear * (6 + 6 + added + (4 if self.how.captured else 0))

    def _adapters(self, num_tokens: int) -> float:
        """Low-rank products: inputs and outputs of each projection, eight times."""
        hidden, wide = self.model.hidden_size, self.model.intermediate_size
        keys = self.shape.keys + self.shape.values
        sizes = {
            "attention": 2 * (hidden + self.shape.queries) + 2 * hidden + keys,
            "mlp": 3 * (hidden + wide),
        }
        moved = 4.0 * self.shape.value * sum(sizes[part] for part in self.work.lora_on)
        moved *= self.model.num_layers * num_tokens * (1 + 0.35 * self.again)
        return moved / (self.bandwidth * self._share("bandwidth"))

    def _launches(self, working: float) -> float:
        """What a micro-batch takes beyond its kernels."""
        passes = 1 + self.asked
        if self.is_cpu:
            return constant("cpu.launch_layer") * self.model.num_layers * passes
        a_layer = constant("gpu.launch_layer") + self.again * constant("gpu.launch_again")
        if not self.full:
            a_layer += constant("gpu.launch_adapters") * len(self.work.lora_on) / 2
        # A reference is read forwards alone.
        python = a_layer * self.model.num_layers * (1 + 0.4 * self.asked)
        if self.how.captured:
            # As many kernels follow one another in a graph.
            return constant("gpu.pass") * passes + constant("gpu.replay") * python
        python += constant("gpu.pass")
        return max(constant("gpu.pass"), python - working)

    def _optimizer(self) -> float:
        """AdamW: weight, gradient and two moments read, three written; the norm read, clipping applied."""
        devices = self.how.num_devices if self.how.sharding in ("fsdp", "zero2") else 1
        moved = 40 * self.trained / devices
        return moved / (self.bandwidth * self._share("bandwidth"))

    def _sampling(self) -> float:
        """Answers of a step, token by token: each reads all weights, and keys and values so far."""
        work, model, value = self.work, self.model, self.shape.value
        if not work.num_sampled or not work.completion_length:
            return 0.0
        width = self.shape.keys + self.shape.values
        room = work.lengths.longest
        cache = work.num_sampled * room * width * value * model.num_layers
        moved = value * (self.active + self.vocabulary) + cache
        flop = 2 * (self.active + self.vocabulary) * work.num_sampled
        # A product of few rows is as slow as its bytes.
        reading = max(
            moved / (self.bandwidth * self._share("bandwidth")),
            flop / (self.peak * self._share("products")),
        )
        kind = "cpu.decode_layer" if self.is_cpu else "gpu.decode_layer"
        # What the captured loop leaves to `generate` (train/decode.py).
        if not self.is_cpu and (self.how.checkpointing or self.how.sharding == "fsdp"):
            kind += "_eager"
        a_token = reading + constant(kind) * model.num_layers
        prompts = max(1.0, work.lengths.mean - work.completion_length) * work.num_sampled
        read = self._product_s(2 * self.active * prompts / work.num_generations, prompts)
        share = work.global_batch_size / self.how.num_devices / work.num_sampled
        return share * (work.completion_length * a_token + read)

    def _communication(self) -> float:
        """Gradients to all devices and back; with fsdp weights forwards and backwards as well (ZeRO, arXiv
        1910.02054, section 7). `interconnect_gb_s` counts both directions."""
        devices = self.how.num_devices
        if devices == 1:
            return 0.0
        chip = self.machine.chip
        rate = chip.interconnect_gb_s / 2 if chip and chip.interconnect_gb_s else constant("gpu.bus")
        moved = 8.0 * self.trained
        if self.how.sharding == "fsdp":
            moved = 4.0 * self.trained + 2 * self.shape.value * self.numbers.total * self.how.accumulation
        return moved * (devices - 1) / devices / (rate * 1e9)
