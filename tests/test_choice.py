"""What is chosen by the machine's abilities: number format, micro-batch, checkpointing."""

import dataclasses
import itertools
import random

import pytest

from tunesmith.config.run_config import RunConfig
from tunesmith.errors import ConfigError
from tunesmith.plan.choice import (
    DRAWS,
    GIB,
    MEMORY_SHARE,
    Choice,
    choose,
    choose_precision,
    memory_gib,
    micro_batches,
    share_out,
)
from tunesmith.plan.facts import PLAIN_LOAD, Load, MachineFacts, ModelFacts
from tunesmith.plan.workload import Lengths

SMALL = ModelFacts(135_000_000, 5_000_000, 30, 576, 1536, 49_152)
LARGE = ModelFacts(8_000_000_000, 42_000_000, 32, 4096, 14_336, 128_256)
PRECISIONS, TUNINGS = ("bf16", "fp16", "fp32"), ("lora", "full")


def config_for(**settings) -> RunConfig:
    return RunConfig(model="m", dataset="d", **settings)


def machine(device="cuda", memory_gib=80.0, num_devices=1, native_bf16=True) -> MachineFacts:
    return MachineFacts(device, f"test {device}", num_devices, memory_gib, native_bf16)


def choice_of(config, where, model, longest: int, load: Load = PLAIN_LOAD) -> Choice:
    """The choice for rows of which all may be so long."""
    return choose(config, where, model, Lengths(1000, longest, 0.0, longest), load)


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


def test_memory_refuses_nothing_it_takes_the_smallest_batch():
    choice = choice_of(config_for(), machine(memory_gib=0.01), LARGE, 100_000)
    assert (choice.per_device_train_batch_size, choice.gradient_checkpointing) == (1, True)
    assert choice.memory_gib > 0.01


def test_checkpointing_appears_only_where_no_batch_fits_without_it():
    config, length = config_for(global_batch_size=16), 1024
    seen = set()
    for memory in [0.5 * 1.2**n for n in range(40)]:
        choice = choice_of(config, machine(memory_gib=memory), SMALL, length)
        one_row_fits = memory_gib(SMALL, "bf16", "lora", length, False) <= memory * MEMORY_SHARE
        assert choice.gradient_checkpointing == (not one_row_fits)
        seen.add(choice.gradient_checkpointing)
    assert seen == {True, False}


def test_the_micro_batch_is_the_largest_that_fits_and_grows_with_memory():
    config, sizes = config_for(global_batch_size=64), []
    for memory in [2 * 1.3**n for n in range(20)]:
        choice = choice_of(config, machine(memory_gib=memory), SMALL, 512)
        assert choice.memory_gib <= memory * MEMORY_SHARE + 0.01
        if not choice.gradient_checkpointing:
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


def test_memory_grows_with_tokens_with_precision_and_with_what_is_trained():
    for tuning, precision, checkpointing in itertools.product(TUNINGS, PRECISIONS, (True, False)):
        needs = [
            memory_gib(LARGE, precision, tuning, tokens, checkpointing) for tokens in (1, 64, 1024, 65_536)
        ]
        assert needs == sorted(set(needs))
    for tokens, checkpointing in itertools.product((64, 65_536), (True, False)):
        for tuning in TUNINGS:
            assert memory_gib(LARGE, "bf16", tuning, tokens, checkpointing) <= memory_gib(
                LARGE, "fp32", tuning, tokens, checkpointing
            )
        whole = ModelFacts(**vars(LARGE) | {"num_trainable_params": LARGE.num_params})
        assert memory_gib(LARGE, "bf16", "lora", tokens, checkpointing) < memory_gib(
            whole, "bf16", "full", tokens, checkpointing
        )


def test_recomputed_activations_need_less_memory_and_weights_are_the_floor():
    for tokens in (512, 65_536):
        assert memory_gib(LARGE, "bf16", "lora", tokens, True) < memory_gib(
            LARGE, "bf16", "lora", tokens, False
        )
    assert memory_gib(LARGE, "bf16", "lora", 1, False) > 2 * LARGE.num_params / GIB
    full = ModelFacts(**vars(SMALL) | {"num_trainable_params": SMALL.num_params})
    assert memory_gib(full, "fp32", "full", 1, False) == pytest.approx(16 * SMALL.num_params / GIB, rel=0.02)


def bytes_kept(model_class, config, num_tokens: int, dtype) -> int:
    """The bytes that `config.num_hidden_layers` layers keep for the backward pass of one row."""
    import torch

    model = model_class(config).to(dtype)
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(input_ids=torch.zeros((1, num_tokens), dtype=torch.long))
    return sum(kept.values())


@pytest.mark.parametrize("family", ["Llama", "Qwen2"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("inner", "kv_heads", "most"), [(256, 8, 1.01), (768, 8, 1.01), (512, 2, 1.15)])
def test_the_estimate_of_activations_is_what_torch_keeps_or_little_more(
    family, precision, inner, kv_heads, most
):
    import torch
    import transformers

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    measured = {}
    for layers in (1, 3):  # what two layers more keep: embedding and last norm are in both
        config = getattr(transformers, f"{family}Config")(
            vocab_size=64, hidden_size=256, intermediate_size=inner, num_hidden_layers=layers,
            num_attention_heads=8, num_key_value_heads=kv_heads,
        )  # fmt: skip
        measured[layers] = bytes_kept(getattr(transformers, f"{family}Model"), config, 128, dtype)
    # Without vocabulary and weights, what is left of the estimate are the layers' activations.
    facts = ModelFacts(0, 0, 2, 256, inner, 0)
    estimated = memory_gib(facts, precision, "lora", 128, False) * GIB
    assert 0.99 < estimated / (measured[3] - measured[1]) < most


GPU = dataclasses.replace(machine(), has_varlen=True)
OWN_ATTENTION = {"model_init_kwargs": {"attn_implementation": "eager"}}


@pytest.mark.parametrize(
    ("where", "settings", "load", "attention", "may_capture"),
    [
        (GPU, {}, Load(), "varlen", True),
        (GPU, {"precision": "fp16"}, Load(), "varlen", True),
        # The kernel has no fp32; an old card, or an old torch, hasn't the kernel.
        (GPU, {"precision": "fp32"}, Load(), "blocks", False),
        (machine(), {}, Load(), "blocks", False),
        (GPU, {}, Load(num_sampled=64), "varlen", True),
        # What TRL does with whole logits needs its own rows; recomputed activations are a step's own.
        (GPU, {"gradient_checkpointing": True}, Load(), "varlen", False),
        (GPU, {}, Load(whole_logits=True), "padded", False),
        (machine("cpu"), {}, Load(), "blocks", False),
        (machine("mps"), {}, Load(), "padded", False),
        # What a user asks for is done.
        (GPU, {"trl": {"packing": True}}, Load(), "padded", False),
        (GPU, {"trl": {"padding_free": True}}, Load(), "padded", False),
        (GPU, {"trl": OWN_ATTENTION}, Load(), "padded", False),
        (GPU, {"trl": {"torch_compile": True}}, Load(), "varlen", False),
        (GPU, {"trl": {"activation_offloading": True}}, Load(), "varlen", False),
    ],
)
def test_rows_reach_the_model_without_padding_where_the_machine_and_the_loss_allow_it(
    where, settings, load, attention, may_capture
):
    choice = choice_of(config_for(**settings), where, SMALL, 1024, load)
    assert (choice.attention, choice.may_capture) == (attention, may_capture)
    words = {"varlen": "varlen", "blocks": "block mask", "padded": "rows"}
    assert words[attention] in choice.reasons[-1]


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
        choose(config_for(**given, **more), where, LARGE, rows).per_device_train_batch_size
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
