"""LoRA's linear layer as matrix products alone.

peft's layer (peft 0.21, tuners/lora/layer.py) casts its input to fp32 and back, scales and adds over all
outputs: on an H100 that was a third of what the card did in a step at 0.5B (benchmarks/RESULTS.md). Here a
product adds to what the layer before it gave, forwards and backwards, and the scaling lies in B, the
smallest matrix. In the dtype that autocast works in the numbers are the same, but for how they are rounded.
LoRA: arXiv 2106.09685, section 4.1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


class _LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + bias + x Aᵀ Bᵀ, with B already scaled; W and bias are frozen.

    x (tokens, in), W (out, in), A (rank, in), B (out, rank), all of one dtype.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any) -> Any:
        low = x.mm(a.t())
        ctx.save_for_backward(x, low, weight, a, b)
        return torch.nn.functional.linear(x, weight, bias).addmm_(low, b.t())

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
        x, low, weight, a, b = ctx.saved_tensors
        for_low = gradient.mm(b)
        for_x = gradient.mm(weight).addmm_(for_low, a) if ctx.needs_input_grad[0] else None
        return for_x, None, None, for_low.t().mm(x), gradient.t().mm(low)


def merge_products(model: Any) -> int:
    """Let LoRA's linear layers of `model` work so where they can; returns how many may.

    Whatever else a layer is asked for (another base, variants such as DoRA, dropout, several adapters) is
    done by peft.
    """
    from peft.tuners.lora import Linear

    layers = [each for each in model.modules() if type(each) is Linear and _is_plain(each)]
    for layer in layers:
        layer.forward = _forward_of(layer, layer.forward)
    return len(layers)


def _is_plain(layer: Any) -> bool:
    base = layer.get_base_layer()
    frozen = not any(weight.requires_grad for weight in base.parameters())
    # What loads its weights when it is called (accelerate's offloading), or is watched, has to be called.
    called = "forward" in vars(base) or base._forward_hooks or base._forward_pre_hooks
    return type(base) is torch.nn.Linear and frozen and not called and not layer.fan_in_fan_out


def _forward_of(layer: Any, as_before: Callable[..., Any]) -> Callable[..., Any]:
    base = layer.get_base_layer()

    @functools.wraps(as_before)
    def forward(x: Any, *args: Any, **kwargs: Any) -> Any:
        names = [name for name in layer.active_adapters if name in layer.lora_A]
        if args or kwargs or layer.disable_adapters or layer.merged or len(names) != 1:
            return as_before(x, *args, **kwargs)
        (name,) = names
        dropout = layer.lora_dropout[name]
        drops = layer.training and getattr(dropout, "p", 0.0) > 0
        dtype = base.weight.dtype
        if drops or name in layer.lora_variant or layer.lora_bias[name] or _works_in(x) != dtype:
            return as_before(x)
        a, b = layer.lora_A[name].weight.to(dtype), layer.lora_B[name].weight.to(dtype)
        rows = x.to(dtype).reshape(-1, x.shape[-1])
        y = _LoraLinear.apply(rows, base.weight, base.bias, a, b * layer.scaling[name])
        return y.view(*x.shape[:-1], y.shape[-1])

    return forward


def _works_in(x: Any) -> Any:
    """The dtype in which a linear layer multiplies `x` here."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
