"""A pass over stand-ins is the pass under autocast; a CPU does it as a GPU does, without being captured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fused import batch
from peft import LoraConfig, get_peft_model
from test_documents import ROWS, assert_near
from torch.utils._python_dispatch import TorchDispatchMode

from tunesmith.train.lora_linear import merge_products
from tunesmith.train.stand_ins import CastOnce, StandIns, copy_each


class Casts(TorchDispatchMode):
    """Counts casts."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=["full", "lora", "dora"])
def model(request: pytest.FixtureRequest, tiny_model: Path) -> Any:
    """The tiny model's layers; a frozen base is in bf16."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    full = request.param == "full"
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32 if full else torch.bfloat16)
    if full:
        return base.base_model
    lora = LoraConfig(r=4, target_modules="all-linear", use_dora=request.param == "dora")
    tuned = get_peft_model(base, lora)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    merge_products(tuned)
    return base.base_model


def trained(model: Any) -> list[Any]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def read(model: Any, weights: list[Any]) -> tuple[Any, Any]:
    """The last hidden states of a batch, and gradients of `weights`."""
    ids, mask, _ = batch(ROWS)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        hidden = model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden.detach(), torch.autograd.grad(hidden.float().pow(2).sum(), weights, allow_unused=True)


def read_stand_ins(model: Any) -> tuple[Any, Any]:
    stand_ins = StandIns(model, trained(model), torch.bfloat16)
    with stand_ins.in_place(model) as leaves, CastOnce(torch.bfloat16):
        stand_ins.fill()
        return read(model, leaves)


def test_layers_see_what_autocast_shows_them(model):
    expected, gradients = read(model, trained(model))
    found, others = read_stand_ins(model)
    assert torch.equal(found, expected)
    for one, other in zip(others, gradients, strict=True):
        assert_near(one.float(), other.float(), 1e-2)


def test_afterwards_the_model_has_its_own_weights(model):
    weights = trained(model)
    read_stand_ins(model)
    assert [id(each) for each in trained(model)] == [id(each) for each in weights]
    assert all(weight.grad is None for weight in weights)


def test_what_is_filled_in_are_the_weights_of_now(model):
    stand_ins = StandIns(model, trained(model), torch.bfloat16)
    stand_ins.fill()
    with torch.no_grad():
        for weight in trained(model):
            weight.mul_(1.5)
    stand_ins.fill()
    expected, _ = read(model, trained(model))
    with stand_ins.in_place(model) as leaves:
        assert torch.equal(read(model, leaves)[0], expected)


def test_fewer_casts_over_fp32_weights(tiny_model):
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).base_model
    with Casts() as each_time:
        read(base, trained(base))
    with Casts() as once:
        read_stand_ins(base)
    # Seven matrices and five readers of two norms in a layer, forwards and backwards.
    assert each_time.count - once.count >= base.config.num_hidden_layers * (7 + 3) * 2


def test_a_weight_that_is_read_elsewhere_too_keeps_its_precision(tiny_model):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model.lm_head.weight = model.model.embed_tokens.weight
    stand_ins = StandIns(model, trained(model), torch.bfloat16)
    with stand_ins.in_place(model):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert model.lm_head.weight.dtype == torch.float32
        assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
        assert model.model.norm.weight.dtype == torch.float32


def test_an_exception_inside_leaves_the_model_as_it_was(model):
    weights = trained(model)
    with pytest.raises(ZeroDivisionError), StandIns(model, weights, torch.bfloat16).in_place(model):
        raise ZeroDivisionError
    assert [id(each) for each in trained(model)] == [id(each) for each in weights]


def test_copies_are_made_in_each_precision():
    into = [torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2), torch.zeros(3)]
    copy_each(into, [torch.ones(2), torch.ones(2), torch.full((2,), 3, dtype=torch.bfloat16), None])
    assert [each.tolist() for each in into] == [[1, 1], [1, 1], [3, 3], [0, 0, 0]]


def test_a_layer_that_turns_autocast_off_works_in_its_own_precision():
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    with torch.autocast("cpu", torch.bfloat16), CastOnce(torch.bfloat16):
        torch.nn.functional.linear(x, weight)
        with torch.autocast("cpu", enabled=False):
            found = torch.nn.functional.linear(x, weight)
    assert torch.equal(found, torch.nn.functional.linear(x, weight))


def test_an_input_that_was_altered_meanwhile_is_cast_again():
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    with torch.autocast("cpu", torch.bfloat16), CastOnce(torch.bfloat16):
        torch.nn.functional.linear(x, weight)
        x.mul_(2)
        found = torch.nn.functional.linear(x, weight)
        assert torch.equal(found, torch.nn.functional.linear(input=x, weight=weight))
