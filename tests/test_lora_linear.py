"""LoRA's linear layers as products alone: peft's numbers and gradients, and peft itself where it must."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from fused import batch
from test_documents import ROWS

from tunesmith.train.lora_linear import _LoraLinear, merge_products


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A call each time that a layer works by products alone."""
    made: list[int] = []
    apply = _LoraLinear.apply

    def watched(*args: Any) -> Any:
        made.append(1)
        return apply(*args)

    monkeypatch.setattr(_LoraLinear, "apply", watched)
    return made


def lora_model(tiny_model: Path, dtype: Any = None, **options: Any) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype or torch.float32)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    model = get_peft_model(base, LoraConfig(**(settings | options)))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model.train()


def numbers(model: Any, around: AbstractContextManager[Any] | None = None) -> dict[str, Any]:
    """Logits and all gradients of a training step."""
    ids, mask, labels = batch(ROWS)
    model.zero_grad()
    with around or nullcontext():
        out = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False)
    out.loss.backward()
    found = {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}
    return found | {"logits": out.logits.detach()[mask.bool()]}


def assert_same(found: dict[str, Any], expected: dict[str, Any], relative: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        off = (found[name] - value).float().norm() / value.float().norm().clamp(min=1e-6)
        assert off <= relative, f"{name}: {off:.2g}"


def test_numbers_and_gradients_are_those_of_peft(tiny_model: Path, calls: list[int]):
    model = lora_model(tiny_model)
    expected = numbers(model)
    assert merge_products(model) == 14
    assert_same(numbers(model), expected, 1e-5)
    assert len(calls) == 14


def test_under_autocast_rounding_costs_no_more_than_it_costs_peft(tiny_model: Path, calls: list[int]):
    import torch

    def around() -> Any:
        return torch.autocast("cpu", torch.bfloat16)

    def off(found: dict[str, Any]) -> float:
        """How far all gradients together lie from those that nothing rounded."""
        return sum(float((found[name] - exact[name]).norm() ** 2) for name in exact if "lora_" in name) ** 0.5

    model = lora_model(tiny_model, torch.bfloat16)
    of_peft = numbers(model, around())
    exact = numbers(lora_model(tiny_model, torch.bfloat16).float())
    merge_products(model)
    found = numbers(model, around())
    assert len(calls) == 14
    assert found.keys() == of_peft.keys()
    assert off(found) <= 1.1 * off(of_peft)


def test_in_double_precision_gradients_are_those_of_finite_differences():
    import torch

    torch.manual_seed(1)
    shapes = [(5, 6), (4, 6), (4,), (2, 6), (4, 2)]
    x, weight, bias, a, b = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    for each in (x, a, b):
        each.requires_grad_()
    assert torch.autograd.gradcheck(_LoraLinear.apply, (x, weight, bias, a, b))


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}, {"use_rslora": True}],
    ids=lambda each: next(iter(each)),
)
def test_what_is_more_than_lora_is_left_to_peft(tiny_model: Path, calls: list[int], options: dict[str, Any]):
    import torch

    model = lora_model(tiny_model, **options)
    torch.manual_seed(5)
    expected = numbers(model)
    merge_products(model)
    torch.manual_seed(5)
    assert_same(numbers(model), expected, 1e-5)
    # Rank-stabilised LoRA is LoRA with another scaling.
    assert bool(calls) == ("use_rslora" in options)


def test_dropout_is_left_out_when_the_model_is_asked(tiny_model: Path, calls: list[int]):
    model = lora_model(tiny_model, lora_dropout=0.5).eval()
    expected = numbers(model)
    merge_products(model)
    assert_same(numbers(model), expected, 1e-5)
    assert calls


def test_an_adapter_that_is_off_merged_or_one_of_two_is_minded(tiny_model: Path, calls: list[int]):
    import torch
    from peft import LoraConfig

    model = lora_model(tiny_model)
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():
        with model.disable_adapter():
            without = model(input_ids=ids).logits
        adapted = model(input_ids=ids).logits
        assert not torch.allclose(without, adapted, atol=1e-3)
        merge_products(model)
        with model.disable_adapter():
            assert torch.equal(model(input_ids=ids).logits, without)
        assert not calls
        model.merge_adapter()
        torch.testing.assert_close(model(input_ids=ids).logits, adapted, rtol=1e-4, atol=1e-5)
        model.unmerge_adapter()
        model.add_adapter("other", LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
        model.set_adapter("other")
        torch.testing.assert_close(model(input_ids=ids).logits, without, rtol=1e-4, atol=1e-5)


def test_one_layer_with_a_bias_and_an_output_layer_that_is_trained_whole(tiny_model: Path, calls: list[int]):
    import torch

    model = lora_model(tiny_model, modules_to_save=["lm_head"])
    inner = model.base_model.model.model.layers[0].self_attn.q_proj.base_layer
    inner.bias = torch.nn.Parameter(torch.randn(inner.out_features), requires_grad=False)
    expected = numbers(model)
    merge_products(model)
    assert_same(numbers(model), expected, 1e-5)
    assert len(calls) == 14
