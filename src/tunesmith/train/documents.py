"""Rows without padding: a padded batch becomes one row of documents that don't see each other.

TRL pads every row of a batch to the longest. Here the same rows stand one behind the other, with positions
that begin again at each: as many optimizer steps, of the same rows, with the same losses and gradients
(tests/test_documents.py), and no token that isn't there. Unlike packing it leaves the global batch as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.train.attention import VARLEN, register_varlen
from tunesmith.train.relayout import Reader, fused, read_by, window_of

Attention = Literal["varlen", "blocks"]
# Blocks of a mask cost the square of the row: beyond this, or for less saving, padding is as good.
MOST_BLOCK_TOKENS, WORTH = 2048, 0.9


@dataclass(frozen=True)
class Documents:
    """A batch as one row: ids, positions and labels are (1, tokens), a label stands where it is predicted.

    `places` says where in the padded batch of `padded_shape` each token stood; `apart` holds the arguments
    that keep documents from seeing each other.
    """

    input_ids: Any
    position_ids: Any
    shift_labels: Any
    places: Any
    padded_shape: tuple[int, int]
    apart: dict[str, Any]

    def call(self) -> dict[str, Any]:
        """Keyword arguments for the model."""
        ids = {"input_ids": self.input_ids, "position_ids": self.position_ids}
        return {**ids, "shift_labels": self.shift_labels, **self.apart}

    def put_back(self, value: Any) -> Any:
        """Numbers of the tokens, as (rows, tokens - 1) of the padded batch; 0 where padding was."""
        num_rows, width = self.padded_shape
        empty = value.new_zeros(num_rows * width)
        return empty.index_copy(0, self.places, value.reshape(-1)).view(num_rows, width)[:, :-1]

    def last(self, hidden: Any) -> Any:
        """Of (1, tokens, width) the last token of each document: (rows, width)."""
        import torch

        starts = (self.position_ids[0] == 0).nonzero()[1:, 0]
        return hidden[0, torch.cat([starts, starts.new_tensor([hidden.shape[1]])]) - 1]


def documents_of(
    input_ids: Any, attention_mask: Any, labels: Any, *, attention: Attention
) -> Documents | None:
    """The batch without padding, or None where that isn't worth it.

    The first three are (rows, tokens) tensors, padded on either side; a label is -100 where nothing is
    learned.
    """
    num_rows, width = input_ids.shape
    mask = attention_mask.bool()
    places = mask.flatten().nonzero()[:, 0]
    if attention == "blocks" and len(places) > min(MOST_BLOCK_TOKENS, WORTH * mask.numel()):
        return None
    shifted = labels.roll(-1, dims=1)
    shifted[:, -1] = -100
    take = functools.partial(_taken, places)
    owners = places // width
    return Documents(
        take(input_ids),
        take(mask.cumsum(dim=1) - 1),
        take(shifted),
        places,
        (num_rows, width),
        _varlen(mask, width) if attention == "varlen" else {"attention_mask": _blocks(owners)},
    )


def _taken(places: Any, padded: Any) -> Any:
    return padded.flatten()[places][None]


def _varlen(mask: Any, width: int) -> dict[str, Any]:
    import torch

    lengths = mask.sum(dim=1, dtype=torch.int32)
    starts = torch.nn.functional.pad(lengths.cumsum(dim=0, dtype=torch.int32), (1, 0))
    # Few different upper bounds: a compiled layer is compiled again for a new one.
    longest = 1 << (width - 1).bit_length()
    return {
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _blocks(owners: Any) -> Any:
    """(1, 1, tokens, tokens): each token sees its own document up to itself."""
    return (owners[:, None] == owners).tril()[None, None]


def read_documents(model: Any, attention: Attention, notify: Callable[[str], None]) -> None:
    """Let `model`, to which TRL added its fused head, read batches without their padding.

    `notify` hears when the model turns out not to fit; it is then read padded, as before.
    """
    lay_out = functools.partial(documents_of, attention=attention)
    read_by(model, fused(lay_out, _widest(model, attention)), _prepare(model, attention, notify))


def read_scored_documents(model: Any, attention: Attention, notify: Callable[[str], None]) -> None:
    """The same for a model that gives each row one number, read off its last token."""

    def lay_out(given: dict[str, Any]) -> Documents | None:
        ids, mask = given["input_ids"], given["attention_mask"]
        return documents_of(ids, mask, ids, attention=attention)

    def read(as_before: Callable[..., Any], documents: Documents) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutputWithPast

        call = documents.call()
        del call["shift_labels"]
        hidden = model.base_model(**call, use_cache=False).last_hidden_state
        return SequenceClassifierOutputWithPast(logits=model.score(documents.last(hidden)))

    known = frozenset({"input_ids", "attention_mask"})
    reader = Reader(known, lay_out, read, "logits", _widest(model, attention))
    read_by(model, reader, _prepare(model, attention, notify))


def _widest(model: Any, attention: Attention) -> int | None:
    """A mask of blocks shows no sliding window; the varlen kernel is told of it by the model's layers."""
    return window_of(model) if attention == "blocks" else None


def _prepare(model: Any, attention: Attention, notify: Callable[[str], None]) -> Callable[[], None]:
    """Let the model attend as `attention` says; returns what undoes that."""
    before = str(model.config._attn_implementation)
    if attention == "varlen":
        register_varlen()
        model.set_attn_implementation(VARLEN)

    def give_up() -> None:
        model.set_attn_implementation(before)
        notify("this model sees more than one text in a row of several: batches are padded")

    return give_up
