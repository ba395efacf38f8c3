"""A batch that the model reads in another shape than TRL made it, and answers in TRL's.

Every loss of TRL with a fused head calls the model in one way: padded rows in, numbers of each place out. So
here one wrapper around `forward` serves them all. The first batch of a run is computed both ways: a model
that sees other things than the layout says (states, absolute positions) is found out, and trained as TRL
does it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from tunesmith.errors import first_line

# How far log-probabilities may lie from TRL's: the farthest in fp32, the mean where 16 bits round.
FP32_TOLERANCE, SIXTEEN_BIT_TOLERANCE = 1e-3, 0.05
# Arguments of a call that change nothing here: no cache is kept, and answers have fields.
_NO_MATTER = ("use_cache", "return_dict")


class Layout(Protocol):
    """A batch in another shape."""

    def call(self) -> dict[str, Any]:
        """Keyword arguments for the model, `shift_labels` among them."""

    def put_back(self, value: Any) -> Any:
        """Numbers of the layout's places, as (rows, tokens - 1) of the padded batch; 0 for the others."""


# From ids, mask and labels, each (rows, tokens), padded on either side; None where it isn't worth it.
LayOut = Callable[[Any, Any, Any], Layout | None]


def trained_model(trainer: Any) -> Any:
    """The causal language model of a trainer, without the adapter around it."""
    model = trainer.model
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def that_matter(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call that are given and change what is computed."""
    return {key: value for key, value in kwargs.items() if value is not None and key not in _NO_MATTER}


def read_models(trainer: Any) -> list[Any]:
    """The models that a trainer reads its batches with: the trained one, and a reference beside it."""
    reference = getattr(trainer, "ref_model", None)
    return [trained_model(trainer)] + ([] if reference is None else [reference])


def window_of(model: Any) -> int | None:
    """Tokens that a model with sliding windows sees in some layers: a mask that is given shows no window."""
    window: int | None = getattr(model.config.get_text_config(), "sliding_window", None)
    return window


class Reader(NamedTuple):
    """How calls with the arguments `known` are answered in another shape; `field` of the answer is compared.

    `lay_out` makes the shape of a call's arguments, or None where it isn't worth it; `read` takes the model's
    own forward and that. Batches wider than `widest` are left to the model.
    """

    known: frozenset[str]
    lay_out: Callable[[dict[str, Any]], Any]
    read: Callable[[Callable[..., Any], Any], Any]
    field: str
    widest: int | None = None


def fused(lay_out: LayOut, widest: int | None = None) -> Reader:
    """For calls of TRL's fused head. `lay_out` takes ids, mask and labels, each (rows, tokens)."""
    names = ("input_ids", "attention_mask", "labels")
    return Reader(
        frozenset(names) | {"fused_lm_head"},
        lambda given: lay_out(*(given[name] for name in names)) if given["fused_lm_head"] else None,
        _read_fused,
        "log_probs",
        widest,
    )


# Why a model doesn't fit, where the numbers tell no more.
MIXES = "this model sees more than one text in a row of several"


def read_by(model: Any, reader: Reader, give_up: Callable[[str], None]) -> None:
    """Let `model` answer by `reader`. `give_up` hears why the model doesn't fit, once that turns out."""
    as_before = model.forward
    verdict: list[str] = []

    @functools.wraps(as_before)
    def forward(*args: Any, **kwargs: Any) -> Any:
        given = that_matter(kwargs)
        if args or any(verdict) or given.keys() != reader.known:
            return as_before(*args, **kwargs)
        if reader.widest is not None and given["input_ids"].shape[1] > reader.widest:
            return as_before(**kwargs)
        layout = reader.lay_out(given)
        if layout is None:
            return as_before(**kwargs)
        if not verdict:
            verdict.append(_misfit(model, as_before, reader, layout, kwargs))
            if verdict[0]:
                give_up(verdict[0])
                return as_before(**kwargs)
        return reader.read(as_before, layout)

    model.forward = forward


def _read_fused(as_before: Callable[..., Any], layout: Layout) -> Any:
    import torch

    call = layout.call()
    out = as_before(**call, fused_lm_head=True, use_cache=False)
    shape = call["shift_labels"].shape
    changes = {}
    for field in dataclasses.fields(out):
        value = getattr(out, field.name)
        if isinstance(value, torch.Tensor) and value.shape == shape:
            changes[field.name] = layout.put_back(value)
    return dataclasses.replace(out, **changes)


def _misfit(
    model: Any, as_before: Callable[..., Any], reader: Reader, layout: Any, kwargs: dict[str, Any]
) -> str:
    """Why the layout doesn't do; empty where both ways give the same numbers for this batch."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            try:
                found = getattr(reader.read(as_before, layout), reader.field)
            except Exception as error:  # whatever such a model makes of it, TRL's way remains
                return f"this model can't read them so ({first_line(error)})"
            expected = getattr(as_before(**kwargs), reader.field)
    finally:
        model.train(was_training)
    off = (found - expected).abs().float()
    if not _works_in_16_bit(model, found.device.type):
        return "" if off.max() <= FP32_TOLERANCE else MIXES
    # Zeros stand where nothing was asked.
    mean = off.sum() / max(1, int((expected != 0).sum()))
    return "" if mean <= SIXTEEN_BIT_TOLERANCE else MIXES


def _works_in_16_bit(model: Any, device: str) -> bool:
    """Whether layers multiply in 16 bit: a model of its own (a reference) is under autocast only within the
    forward that accelerate gave it."""
    import torch

    under_autocast = torch.is_autocast_enabled(device) or hasattr(model, "_original_forward")
    return under_autocast or model.dtype != torch.float32
