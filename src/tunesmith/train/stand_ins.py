"""What autocast casts again and again, cast once: for passes that are captured.

Over fp32 weights autocast casts every matrix where it is multiplied, and the activations once for each layer
that reads them. Here all matrices are cast in one go, and gradients are asked of those casts: in 16 bit, as
the products give them. The numbers that layers multiply are autocast's to the bit; what layers that read the
same ask of it is added up in 16 bit, where autocast adds in fp32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.overrides import TorchFunctionMode


class StandIns:
    """Leaves of autograd that stand where trained weights stand while a pass is captured.

    A leaf of its own also keeps a capture apart from graphs of earlier passes that are still alive: autograd
    would wait for the stream on which a weight was used first.
    """

    def __init__(self, model: torch.nn.Module, weights: list[torch.nn.Parameter], dtype: torch.dtype | None):
        """Of the trained `weights` of `model`; `dtype` is autocast's, None where nothing is cast."""
        self._weights = weights
        self._gradients: list[Any] = []
        matrices = _multiplied_only(model) if dtype else set()
        self._cast = [each for each in weights if id(each) in matrices and each.dtype != dtype]
        self._casts = [torch.empty_like(each, dtype=dtype) for each in self._cast]

    def fill(self) -> None:
        """Take the weights as they are now; others are the weights themselves, in their memory."""
        copy_each(self._casts, self._cast)

    def gradients(self, leaves: list[torch.nn.Parameter]) -> list[Any]:
        """A tensor for the gradient of each leaf, the same ones for all captures."""
        if not self._gradients:
            self._gradients = [torch.empty_like(each) for each in leaves]
            copy_each(self._gradients, leaves)  # loads the kernel
        return self._gradients

    @contextlib.contextmanager
    def in_place(self, model: torch.nn.Module) -> Iterator[list[torch.nn.Parameter]]:
        """Inside, `model` reads these; yields one for each weight."""
        casts = {id(weight): cast for weight, cast in zip(self._cast, self._casts, strict=True)}
        leaves = [torch.nn.Parameter(casts.get(id(each), each.detach())) for each in self._weights]
        by_weight = {id(weight): leaf for weight, leaf in zip(self._weights, leaves, strict=True)}
        places = [
            (module._parameters, name, weight)
            for module in model.modules()
            for name, weight in module._parameters.items()
            if id(weight) in by_weight
        ]
        try:
            for parameters, name, weight in places:
                parameters[name] = by_weight[id(weight)]
            yield leaves
        finally:
            for parameters, name, weight in places:
                parameters[name] = weight


class CastOnce(TorchFunctionMode):
    """Inside, what several linear layers read one after the other is cast to `dtype` for the first alone."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        # What was cast last, its version then, and the cast.
        self._last: tuple[Any, int, Any] = (None, 0, None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear and args and self._is_cast(args[0]):
            x = args[0]
            if self._last[0] is not x or self._last[1] != x._version:
                self._last = x, x._version, x.to(self._dtype)
            args = (self._last[2], *args[1:])
        return func(*args, **(kwargs or {}))

    def _is_cast(self, x: Any) -> bool:
        """Whether autocast would cast it: not where a layer has turned that off."""
        return x.dtype != self._dtype and torch.is_autocast_enabled(x.device.type)


def copy_each(into: Sequence[Any], values: Sequence[Any]) -> None:
    """Copy values into tensors of their shapes, in few launches; None is left out."""
    alike: dict[Any, tuple[list[Any], list[Any]]] = {}
    for to, value in zip(into, values, strict=True):
        if value is not None:
            tos, froms = alike.setdefault((to.dtype, value.dtype), ([], []))
            tos.append(to)
            froms.append(value.detach())
    for tos, froms in alike.values():
        with torch.no_grad():
            torch._foreach_copy_(tos, froms)


def _multiplied_only(model: torch.nn.Module) -> set[int]:
    """Ids of the weights that autocast would cast wherever they are read: those of linear layers alone.

    DoRA takes the norm of its matrices in their own precision.
    """
    read_elsewhere, matrices = set(), set()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and getattr(module, "lora_variant", None):
            read_elsewhere |= {id(each) for each in module.parameters()}
        mine = matrices if type(module) is torch.nn.Linear else read_elsewhere
        mine |= {id(each) for each in module.parameters(recurse=False)}
    return matrices - read_elsewhere
