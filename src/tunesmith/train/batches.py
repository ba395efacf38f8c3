"""Batches come to the GPU by a stream of their own, and with them where their tokens are.

transformers copies a batch behind all that the GPU still has to do and waits for it; how many tokens it holds
is asked of the GPU behind the whole step as well. Both are known at once on a stream where nothing else is:
Python goes on, and the GPU finds its next work when it is done with the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# An attribute of a mask on the GPU: the places that it shows, counted over all rows.
_PLACES = "tunesmith_places"


def places_of(mask: Any) -> Any:
    """The places of a (rows, tokens) mask that aren't zero, counted over all rows."""
    known = getattr(mask, _PLACES, None)
    return mask.flatten().nonzero()[:, 0] if known is None else known


def bring_aside(trainer: Any) -> None:
    """Let the batches that `trainer` trains on come so."""
    import torch

    before, aside = trainer.get_batch_samples, torch.cuda.Stream()

    def get_batch_samples(epoch_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> Any:
        return before(_brought(epoch_iterator, aside), *args, **kwargs)

    trainer.get_batch_samples = get_batch_samples


def _brought(batches: Iterator[Any], aside: Any) -> Iterator[Any]:
    import torch

    while True:
        with torch.cuda.stream(aside):
            batch = next(batches, None)
            tensors = _tensors_of(batch)
            masks = [value for name, value in tensors.items() if name.endswith("attention_mask")]
            for mask in masks:
                setattr(mask, _PLACES, places_of(mask))
        aside.synchronize()
        if batch is None:
            return
        for tensor in [*tensors.values(), *map(places_of, masks)]:
            # Its memory is used again only when the step has read it.
            tensor.record_stream(torch.cuda.current_stream())
        yield batch


def _tensors_of(batch: Any) -> dict[str, Any]:
    """What of a batch lies on the GPU, by name."""
    fields = batch if isinstance(batch, Mapping) else {}
    return {name: value for name, value in fields.items() if getattr(value, "is_cuda", False)}
