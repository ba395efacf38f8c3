"""What is chosen by the machine's abilities: number format, micro-batch, checkpointing."""

import dataclasses
import itertools
import random
from typing import Any

import pytest

from tunesmith.config.run_config import RunConfig
from tunesmith.errors import ConfigError, PlanError
from tunesmith.plan.architecture import read_architecture
from tunesmith.plan.base import Base
from tunesmith.plan.choice import Choice, choose_precision, micro_batches, share_out
from tunesmith.plan.facts import MachineFacts, machine_here
from tunesmith.plan.parameters import count_parameters
from tunesmith.plan.planner import MARGIN, Plan, plan_run
from tunesmith.plan.refusal import refuse_overrun
from tunesmith.plan.workload import Lengths, Workload


def base_of_size(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int) -> Base:
    """A llama of these sizes."""
    architecture = read_architecture(
        {"model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
         "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
         "vocab_size": vocab, "max_position_embeddings": 8192, "tie_word_embeddings": hidden < 1000}
    )  # fmt: skip
    return Base("m", architecture, count_parameters(architecture), None, "config.json")


SMALL = base_of_size(576, 1536, 30, 9, 3, 49_152)
LARGE = base_of_size(4096, 14_336, 32, 32, 8, 128_256)
PRECISIONS, TUNINGS = ("bf16", "fp16", "fp32"), ("lora", "full")
DRAWS = 10_000


def config_for(**settings) -> RunConfig:
    return RunConfig(model="m", dataset="d", **settings)


def machine(device="cuda", memory_gib=80.0, num_devices=1, native_bf16=True) -> MachineFacts:
    return MachineFacts(device, f"test {device}", num_devices, memory_gib, native_bf16)


def plan_of(config: RunConfig, where: MachineFacts, base: Base, rows: Lengths, **load: Any) -> Plan:
    work = Workload("sft", config.tuning, rows, config.global_batch_size, 100, 10_000_000, **load)
    return plan_run(config, where, machine_here(where), base, work)


def choice_of(config, where, base, longest: int, **load: Any) -> Choice:
    """The choice for rows of which all are so long."""
    return plan_of(config, where, base, Lengths(1000, longest, 0.0, longest), **load).choice


@pytest.mark.parametrize(
    ("asked", "device", "native_bf16", "chosen"),
    [
        ("auto", "cuda", True, "bf16"),
        ("auto", "cuda", False, "fp16"),
        ("auto", "cpu", True, "bf16"),
        ("auto", "cpu", False, "fp32"),
        ("auto", "mps", False, "fp32"),
        ("fp32", "cuda", True, "fp32"),
        ("fp16", "cuda", True, "fp16"),
        ("bf16", "cpu", False, "bf16"),
        ("fp32", "mps", False, "fp32"),
    ],
)
def test_precision_is_what_was_asked_or_what_the_device_does_natively(asked, device, native_bf16, chosen):
    precision, why = choose_precision(config_for(precision=asked), machine(device, native_bf16=native_bf16))
    assert precision == chosen
    assert chosen in why


def test_a_number_format_that_is_emulated_is_said_to_be_slow():
    _, why = choose_precision(config_for(precision="bf16"), machine("cpu", native_bf16=False))
    assert "slower" in why


def test_fp16_on_a_cpu_is_refused_with_what_works():
    with pytest.raises(ConfigError, match="fp16 does not train on a CPU") as refused:
        choice_of(config_for(precision="fp16"), machine("cpu"), SMALL, 128)
    assert "fp32" in refused.value.fix


@pytest.mark.parametrize("num_devices", [1, 2, 3, 8])
@pytest.mark.parametrize("memory", [0.1, 2, 24, 80])
def test_micro_batch_accumulation_and_devices_make_up_the_global_batch(num_devices, memory):
    for total, length in itertools.product((24, 48, 240), (32, 1024, 8192)):
        choice = choice_of(
            config_for(global_batch_size=total), machine("cuda", memory, num_devices), LARGE, length
        )
        made = choice.per_device_train_batch_size * choice.gradient_accumulation_steps * num_devices
        assert made == total


def test_where_nothing_fits_the_smallest_way_is_shown():
    plan = plan_of(config_for(), machine(memory_gib=0.01), LARGE, Lengths(1000, 8000, 0.0, 8000))
    assert (plan.choice.per_device_train_batch_size, plan.choice.gradient_checkpointing) == (1, True)
    assert plan.memory.needed > 0.01
    assert not plan.fits


def test_checkpointing_appears_only_where_no_batch_fits_without_it():
    rows, seen = Lengths(1000, 1024, 0.0, 1024), set()
    alone = {"trl": {"per_device_train_batch_size": 1}, "gradient_checkpointing": False}
    for memory in [0.5 * 1.2**n for n in range(40)]:
        where = machine(memory_gib=memory)
        plan = plan_of(config_for(), where, SMALL, rows)
        one_row_fits = plan_of(config_for(**alone), where, SMALL, rows).fits
        assert plan.choice.gradient_checkpointing == (not one_row_fits)
        seen.add(plan.choice.gradient_checkpointing)
    assert seen == {True, False}


def test_the_micro_batch_is_the_largest_that_fits_and_grows_with_memory():
    config, sizes = config_for(global_batch_size=64), []
    for memory in [2 * 1.3**n for n in range(20)]:
        plan = plan_of(config, machine(memory_gib=memory), SMALL, Lengths(1000, 512, 0.0, 512))
        choice = plan.choice
        assert plan.fits == plan.memory.fits(memory, MARGIN["cuda"])
        if plan.fits and not choice.gradient_checkpointing:
            sizes.append(choice.per_device_train_batch_size)
    assert sizes == sorted(sizes)
    assert sizes[-1] == 64


def test_checkpointing_as_asked_is_kept_whatever_the_memory():
    for asked, memory in itertools.product((True, False), (0.01, 1000)):
        choice = choice_of(config_for(gradient_checkpointing=asked), machine(memory_gib=memory), LARGE, 4096)
        assert choice.gradient_checkpointing is asked


def test_longer_rows_never_get_a_larger_micro_batch():
    sizes = [
        choice_of(config_for(gradient_checkpointing=False), machine(memory_gib=40), LARGE, length)
        for length in (64, 256, 1024, 4096, 16_384)
    ]
    assert [each.per_device_train_batch_size for each in sizes] == sorted(
        (each.per_device_train_batch_size for each in sizes), reverse=True
    )
    assert len({each.per_device_train_batch_size for each in sizes}) > 1


@pytest.mark.parametrize(
    ("pinned", "devices", "micro", "accumulation"),
    [
        ({"per_device_train_batch_size": 4}, 1, 4, 6),
        ({"gradient_accumulation_steps": 4}, 1, 6, 4),
        ({"gradient_accumulation_steps": 4}, 3, 2, 4),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}, 2, 4, 3),
    ],
)
def test_pinned_batch_sizes_are_kept(pinned, devices, micro, accumulation):
    choice = choice_of(config_for(global_batch_size=24, trl=pinned), machine(num_devices=devices), SMALL, 64)
    assert (choice.per_device_train_batch_size, choice.gradient_accumulation_steps) == (micro, accumulation)


def test_a_pinned_batch_is_kept_where_it_does_not_fit_with_checkpointing():
    config = config_for(global_batch_size=64, trl={"per_device_train_batch_size": 64})
    choice = choice_of(config, machine(memory_gib=1), LARGE, 2048)
    assert (choice.per_device_train_batch_size, choice.gradient_checkpointing) == (64, True)


@pytest.mark.parametrize(
    ("pinned", "devices"),
    [
        ({"per_device_train_batch_size": 5}, 1),
        ({"per_device_train_batch_size": 48}, 1),
        ({"gradient_accumulation_steps": 7}, 1),
        ({"gradient_accumulation_steps": 24}, 2),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}, 1),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}, 1),
        ({"per_device_train_batch_size": 24}, 2),
    ],
)
def test_pinned_batch_sizes_that_do_not_multiply_are_refused(pinned, devices):
    with pytest.raises(ConfigError, match="global_batch_size 24") as refused:
        choice_of(config_for(global_batch_size=24, trl=pinned), machine(num_devices=devices), SMALL, 64)
    for name, size in pinned.items():
        assert f"{name} {size}" in refused.value.message


@pytest.mark.parametrize("key", ["per_device_train_batch_size", "gradient_accumulation_steps"])
@pytest.mark.parametrize("size", [0, -2, 1.5, 8.0, "8", True, [8], {"a": 1}, float("nan")])
def test_a_pinned_size_that_is_no_number_of_rows_is_refused_with_its_key(key, size):
    with pytest.raises(ConfigError, match="whole number above 0") as refused:
        choice_of(config_for(global_batch_size=24, trl={key: size}), machine(), SMALL, 64)
    assert refused.value.where == f"trl.{key}"


def test_a_global_batch_that_the_devices_cannot_share_is_refused():
    for total, devices in ((16, 3), (4, 8)):
        with pytest.raises(ConfigError, match=f"can't be shared by {devices} devices"):
            choice_of(config_for(global_batch_size=total), machine(num_devices=devices), SMALL, 64)
    assert micro_batches(16, 2) == [8, 4, 2, 1]


GPU = dataclasses.replace(machine(), has_varlen=True)
OWN_ATTENTION = {"model_init_kwargs": {"attn_implementation": "eager"}}


@pytest.mark.parametrize(
    ("where", "settings", "load", "attention", "may_capture"),
    [
        (GPU, {}, {}, "varlen", True),
        (GPU, {"precision": "fp16"}, {}, "varlen", True),
        # The kernel has no fp32; an old card, or an old torch, hasn't the kernel.
        (GPU, {"precision": "fp32"}, {}, "blocks", False),
        (machine(), {}, {}, "blocks", False),
        (GPU, {}, {"num_sampled": 64, "completion_length": 256}, "varlen", True),
        # What TRL does with whole logits needs its own rows; recomputed activations are a step's own.
        (GPU, {"gradient_checkpointing": True}, {}, "varlen", False),
        (GPU, {}, {"whole_logits": True}, "padded", False),
        (machine("cpu"), {}, {}, "blocks", False),
        (machine("mps"), {}, {}, "padded", False),
        # What a user asks for is done.
        (GPU, {"trl": {"packing": True}}, {}, "padded", False),
        (GPU, {"trl": {"padding_free": True}}, {}, "padded", False),
        (GPU, {"trl": OWN_ATTENTION}, {}, "padded", False),
        (GPU, {"trl": {"torch_compile": True}}, {}, "varlen", False),
        (GPU, {"trl": {"activation_offloading": True}}, {}, "varlen", False),
    ],
)
def test_rows_reach_the_model_without_padding_where_the_machine_and_the_loss_allow_it(
    where, settings, load, attention, may_capture
):
    choice = choice_of(config_for(**settings), where, SMALL, 1024, **load)
    assert (choice.attention, choice.may_capture) == (attention, may_capture)
    words = {"varlen": "varlen", "blocks": "block mask", "padded": "rows"}
    assert words[attention] in choice.reasons[2]


@pytest.mark.parametrize("num_rows", [8, 16])
def test_the_largest_of_many_batches_lies_below_what_is_counted_and_that_below_the_longest_rows(num_rows):
    draw = random.Random(3)
    lengths = [min(1024, int(draw.lognormvariate(5.99, 0.6))) for _ in range(2000)]
    counted = Lengths.of(lengths).largest_batch(num_rows, DRAWS)
    largest = max(sum(draw.choices(lengths, k=num_rows)) for _ in range(DRAWS))
    assert largest <= counted < num_rows * 1024


def test_a_padded_batch_counts_as_its_longest_row():
    rows = Lengths(1000, 200.0, 50.0, 1024)
    where = dataclasses.replace(machine(memory_gib=40), has_varlen=True)
    given = {"global_batch_size": 64}
    packed, padded = (
        plan_of(config_for(**given, **more), where, LARGE, rows).choice.per_device_train_batch_size
        for more in ({}, {"trl": {"packing": True}})
    )
    assert padded < packed


@pytest.mark.parametrize(
    ("settings", "num_gpus", "smallest", "number"),
    [
        ({}, 0, 1, 1),
        ({}, 1, 1, 1),
        ({}, 2, 1, 2),
        ({"global_batch_size": 16}, 3, 1, 2),
        ({"global_batch_size": 15}, 4, 1, 3),
        ({"global_batch_size": 8}, 8, 2, 4),
        ({"num_processes": 1}, 8, 1, 1),
        ({"num_processes": 2}, 0, 1, 2),
    ],
)
def test_as_many_gpus_train_as_can_share_the_batch_or_as_were_asked_for(settings, num_gpus, smallest, number):
    assert share_out(config_for(**settings), num_gpus, smallest) == number


def test_more_processes_than_gpus_are_refused():
    with pytest.raises(ConfigError, match="num_processes 4 is more than the 2 GPUs here"):
        share_out(config_for(num_processes=4), 2)


H100 = MachineFacts("cuda", "NVIDIA H100 80GB HBM3", 1, 78.0, True, True, True)


@pytest.mark.parametrize("spread", [0.0, 250.0])
@pytest.mark.parametrize("given", [{}, {"trl": {"packing": True}}])
def test_no_other_micro_batch_that_fits_is_predicted_to_be_faster(spread: float, given: dict[str, Any]):
    rows = Lengths(1000, 400.0, spread, 1024)
    chosen = plan_of(config_for(global_batch_size=32, **given), H100, LARGE, rows)
    assert chosen.step
    for size in micro_batches(32, 1):
        trl = given.get("trl", {}) | {"per_device_train_batch_size": size}
        other = plan_of(config_for(global_batch_size=32, trl=trl), H100, LARGE, rows)
        assert other.step
        if other.fits and not other.choice.gradient_checkpointing:
            assert chosen.step.expected <= other.step.expected * 1.031


def test_on_a_card_that_the_table_lacks_the_largest_that_fits_is_taken_and_no_time_is_claimed():
    where = dataclasses.replace(H100, device_name="NVIDIA H900")
    plan = plan_of(config_for(global_batch_size=8), where, SMALL, Lengths(1000, 400.0, 100.0, 1024))
    assert (plan.choice.per_device_train_batch_size, plan.step, plan.duration) == (8, None, None)


def test_a_budget_in_hours_cannot_be_held_on_a_machine_of_unknown_speed():
    where = dataclasses.replace(H100, device_name="NVIDIA H900")
    config = config_for(budget={"max_hours": 1})
    plan = plan_of(config, where, SMALL, Lengths(1000, 400.0, 100.0, 1024))
    with pytest.raises(PlanError, match=r"isn't known.*--probe"):
        refuse_overrun(plan, config, where, machine_here(where), SMALL)


def test_training_is_refused_only_where_even_the_low_estimate_is_too_much():
    rows, config = Lengths(1000, 400.0, 100.0, 1024), config_for(tuning="full")
    seen = set()
    for memory in range(100, 160):
        where = dataclasses.replace(H100, memory_gib=float(memory))
        plan = plan_of(config, where, LARGE, rows)
        inside = plan.memory.low - plan.memory.graphs - plan.memory.items["context"] <= memory
        if plan.fits or inside:
            refuse_overrun(plan, config, where, machine_here(where), LARGE)
            seen.add("fits" if plan.fits else "may not fit")
            continue
        with pytest.raises(PlanError, match="does not fit") as refused:
            refuse_overrun(plan, config, where, machine_here(where), LARGE)
        assert "--tuning lora" in str(refused.value.fix)
        seen.add("refused")
    assert seen == {"refused", "may not fit", "fits"}
