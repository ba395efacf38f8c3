"""Rows without padding: a padded batch becomes rows of documents that don't see each other.

TRL pads every row of a batch to the longest. Here the same rows stand one behind the other, with positions
that begin again at each: as many optimizer steps, of the same rows, with the same losses and gradients
(tests/test_documents.py). Unlike packing it leaves the global batch as it is. On a GPU all stand in one row,
filled up to one of few lengths, so that passes over it can be captured.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.train.attention import VARLEN, register_varlen
from tunesmith.train.batches import places_of
from tunesmith.train.relayout import Reader, fused, read_by, window_of

Attention = Literal["varlen", "blocks"]
# A mask of blocks costs the square of a row: rows needn't be longer than this or their longest document.
BLOCK_TOKENS = 512
# For less saving padding is as good.
WORTH = 0.9
# The smallest step between the lengths that a row is filled up to.
FEWEST_TOKENS = 64


@dataclass(frozen=True)
class Documents:
    """A batch laid out anew: ids, positions and labels are (rows, tokens), a label where it is predicted.

    A token of the padded batch of `padded_shape` stood at `places` and stands at `slots` now, both counted
    over all rows; `ends` are the slots where documents end, and `apart` holds the arguments that keep
    documents from seeing each other.
    """

    input_ids: Any
    position_ids: Any
    shift_labels: Any
    places: Any
    slots: Any
    ends: Any
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
        told = value.reshape(-1)[self.slots]
        return empty.index_copy(0, self.places, told).view(num_rows, width)[:, :-1]

    def last(self, hidden: Any) -> Any:
        """Of (rows, tokens, width) the last token of each document: (documents, width)."""
        return hidden.flatten(0, 1)[self.ends]


def documents_of(
    input_ids: Any, attention_mask: Any, labels: Any, *, attention: Attention
) -> Documents | None:
    """The batch without padding, or None where that isn't worth it.

    The first three are (rows, tokens) tensors, padded on either side; a label is -100 where nothing is
    learned.
    """
    num_rows, width = input_ids.shape
    mask = attention_mask.bool()
    places = places_of(attention_mask)
    lengths = mask.sum(dim=1)
    if attention == "varlen":
        starts, shape = lengths.cumsum(dim=0) - lengths, (1, round_up(len(places)))
    else:
        starts, shape = best_fit(lengths)
        if shape[0] * shape[1] > WORTH * mask.numel():
            return None
    owners, positions = places // width, (mask.cumsum(dim=1) - 1).flatten()[places]
    slots = starts[owners] + positions
    shifted = labels.roll(-1, dims=1)
    shifted[:, -1] = -100
    lay_out = functools.partial(_laid_out, slots, shape)
    return Documents(
        lay_out(input_ids.flatten()[places]),
        lay_out(positions),
        lay_out(shifted.flatten()[places], fill=-100),
        places,
        slots,
        starts + lengths - 1,
        (num_rows, width),
        _varlen(lengths, shape[1], width)
        if attention == "varlen"
        else {"attention_mask": _blocks(lay_out(owners, fill=-1))},
    )


def round_up(num_tokens: int) -> int:
    """The next of few lengths: eight between each power of two and the next, so about 4 % more."""
    step = max(FEWEST_TOKENS, (1 << num_tokens.bit_length()) // 16)
    return -(-max(1, num_tokens) // step) * step


def best_fit(lengths: Any) -> tuple[Any, tuple[int, int]]:
    """Where each of so long documents begins, and the number of rows and tokens of all: the longest first,
    each into the fullest row that has room for it (best-fit decreasing)."""
    sizes: list[int] = lengths.tolist()
    room = max(*sizes, min(sum(sizes), BLOCK_TOKENS), 1)
    filled: list[int] = []
    begins = [(0, 0)] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda each: -sizes[each]):
        fit = [row for row, size in enumerate(filled) if size + sizes[index] <= room]
        row = max(fit, key=lambda each: filled[each]) if fit else len(filled)
        if not fit:
            filled.append(0)
        begins[index] = row, filled[row]
        filled[row] += sizes[index]
    width = max(filled)
    return lengths.new_tensor([row * width + offset for row, offset in begins]), (len(filled), width)


def _laid_out(slots: Any, shape: tuple[int, int], values: Any, fill: int = 0) -> Any:
    return values.new_full((shape[0] * shape[1],), fill).index_copy(0, slots, values).view(shape)


def _varlen(lengths: Any, num_tokens: int, width: int) -> dict[str, Any]:
    """What fills the row up is a document as well, an empty one where nothing is to be filled."""
    import torch

    starts = torch.nn.functional.pad(lengths.cumsum(dim=0), (1, 1), value=num_tokens)
    starts[0] = 0
    # An upper bound of few values: a captured pass has it as a constant.
    longest = 1 << (max(width, num_tokens // 8, FEWEST_TOKENS) - 1).bit_length()
    return {"cu_seq_lens_q": starts.to(torch.int32), "max_length_q": longest}


def _blocks(owners: Any) -> Any:
    """(rows, 1, tokens, tokens): each token sees its own document up to itself."""
    return (owners[:, :, None] == owners[:, None, :]).tril()[:, None]


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


def _prepare(model: Any, attention: Attention, notify: Callable[[str], None]) -> Callable[[str], None]:
    """Let the model attend as `attention` says; returns what undoes that."""
    before = str(model.config._attn_implementation)
    if attention == "varlen":
        register_varlen()
        model.set_attn_implementation(VARLEN)

    def give_up(why: str) -> None:
        model.set_attn_implementation(before)
        notify(f"{why}: batches are padded")

    return give_up
