"""A batch of answers being decoded, and the step that adds a token to each: captured, where a GPU does it.

Keys and values lie in buffers of a fixed size, and a step reads and writes the same addresses each time,
sampling included.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from tunesmith.train.graphs import capturing

# The name under which transformers finds the attention of a step.
ATTENTION = "tunesmith_decode"
# What a layer may ask of attention that a step hasn't.
_NOT_THERE = ("softcap", "s_aux", "position_bias", "sliding_window")
# Whether all answers have ended is asked every so many tokens.
_ASK_EVERY = 8


class FixedCache:
    """Keys and values of all layers in buffers (rows, heads, room, width), written at `place`.

    What models ask of transformers' caches while they read one token: `update` and `get_seq_length`.
    """

    def __init__(self, layers: list[tuple[Any, Any]], place: Any) -> None:
        self.layers, self.place = layers, place

    def update(self, keys: Any, values: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Write the token's keys and values at the place; all of the buffers are read, under a mask."""
        for kept, new in zip(self.layers[layer], (keys, values), strict=True):
            kept.index_copy_(2, self.place, new.to(kept.dtype))
        return self.layers[layer]

    def get_seq_length(self, layer: int = 0) -> int:
        """Tokens before this one; positions are given, so nothing depends on it."""
        return 0


class Decoder:
    """The state of a batch of answers, and the step that adds a token to each.

    All that a step reads and writes lies in tensors that stay: `fill` begins another batch in them.
    """

    def __init__(self, model: Any, config: Any, key: tuple[Any, ...], room: int, layers: list[Any]) -> None:
        import torch

        num_rows, dtype, device = key[0], key[1], layers[0][0].device
        make = functools.partial(torch.zeros, device=device)
        self.model, self.config, self.key, self.room = model, config, key, room
        self.is_checked, self.start, self.done = False, 0, 0
        self.warp = model._get_logits_processor(config, device=device)
        self.eos = torch.tensor(config.eos_token_id, device=device).flatten()
        self.tokens = make(num_rows, room, dtype=torch.long)
        self.log_probs = make(num_rows, room)
        # Added to attention's scores: 0 for what is seen. Of booleans every layer would make this for itself.
        self.bias = make(num_rows, 1, 1, room, dtype=dtype)
        self.place = make(1, dtype=torch.long)
        self.position = make(num_rows, 1, dtype=torch.long)
        self.ended = make(num_rows, 1, dtype=torch.bool)
        # What autocast keeps in fp32, such as rotated keys, attention would round each time.
        shapes = [(num_rows, keys.shape[1], room, keys.shape[3]) for keys, _ in layers]
        buffers = [(make(shape, dtype=dtype), make(shape, dtype=dtype)) for shape in shapes]
        self.cache = FixedCache(buffers, self.place)
        # And what a step needs beside them: a few times the logits in fp32.
        self.num_bytes = 2 * sum(keys.nbytes for keys, _ in buffers) + 16 * num_rows * model.config.vocab_size
        self.graph = _captured(self) if device.type == "cuda" else None

    def fill(self, ids: Any, mask: Any, layers: list[tuple[Any, Any]], times: int) -> None:
        """Begin with these prompts, each of which stands in `ids` so many times in a row.

        `layers` are the keys and values of all but the last token of each.
        """
        width = ids.shape[1]
        self.start, self.done = width, 0
        self.tokens[:, :width] = ids
        self.bias.fill_(float("-inf"))
        self.bias[:, 0, 0, :width].masked_fill_(mask.bool(), 0)
        self.place.fill_(width - 1)
        self.position.copy_((mask.sum(dim=1, keepdim=True) - 1).clamp_(min=0))
        self.ended.fill_(False)
        for kept, read in zip(self.cache.layers, layers, strict=True):
            for buffer, prompts in zip(kept, read, strict=True):
                # What lies there from before is seen by none, but infinity times nothing is no number.
                buffer[:, :, width - 1 :].zero_()
                buffer.unflatten(0, (-1, times))[:, :, :, : width - 1].copy_(prompts[:, None])

    def step(self) -> None:
        """Read the token at the place of each row, choose the next one, and go on to it."""
        import torch

        self.bias.index_fill_(3, self.place, 0)
        out = self.model(
            input_ids=self.tokens.index_select(1, self.place),
            attention_mask=self.bias,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
        )
        scores = out.logits[:, -1].float()
        log_probs = scores.log_softmax(dim=-1)
        if self.config.do_sample:
            # The largest of p / e, with e exponential, is a draw from p; for torch.multinomial the CPU waits.
            noise = torch.empty_like(log_probs).exponential_().log_()
            scores = self.warp(self.tokens, log_probs) - noise
        chosen = scores.argmax(dim=-1, keepdim=True).masked_fill_(self.ended, self.config.pad_token_id)
        self.ended |= (chosen == self.eos).any(dim=1, keepdim=True)
        self.place += 1
        self.position += 1
        self.tokens.index_copy_(1, self.place, chosen)
        self.log_probs.index_copy_(1, self.place, log_probs.gather(1, chosen))

    def run(self, limit: int) -> None:
        """Add up to `limit` tokens to each row, until all have ended."""
        step = self.graph.replay if self.graph else self.step
        have_ended = None
        with contextlib.nullcontext() if self.graph else _surroundings(self.model, self.place.device.type):
            while self.done < limit:
                num_steps = min(_ASK_EVERY, limit - self.done)
                for _ in range(num_steps):
                    step()
                self.done += num_steps
                # Asked before these steps: while the answer is waited for, the device has them to do.
                if have_ended is not None and have_ended():
                    break
                have_ended = _asked(self.ended.all())

    def lengths(self) -> Any:
        """Tokens of each answer, the one that ends it counted in."""
        import torch

        answers = self.tokens[:, self.start : self.start + self.done]
        ends = (answers[:, :, None] == self.eos).any(dim=2)
        return torch.where(ends.any(dim=1), ends.int().argmax(dim=1) + 1, self.done)

    def answers(self) -> Any:
        """Prompts and answers, (rows, tokens), as long as the longest."""
        return self.tokens[:, : self.start + int(self.lengths().max())].clone()


def _asked(answer: Any) -> Callable[[], bool]:
    """A function that waits until the device knows `answer`, and for nothing that it is given to do later."""
    import torch

    if not answer.is_cuda:
        return lambda: bool(answer)
    copied = torch.empty((), dtype=torch.bool, pin_memory=True)
    copied.copy_(answer, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return lambda: event.synchronize() or bool(copied)


def _captured(state: Decoder) -> Any:
    """`state.step` as a CUDA graph. The state is left anywhere: `fill` begins anew."""
    import torch

    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    # A run that goes on from a checkpoint captures where the other one didn't, and has to draw the same.
    before = torch.cuda.get_rng_state()
    with _surroundings(state.model, "cuda"):
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                state.step()
        torch.cuda.current_stream().wait_stream(side)
        # Rounded weights aren't to be taken into the graph, nor out of it.
        torch.clear_autocast_cache()
        try:
            with capturing(graph, torch.cuda.graph_pool_handle()):
                state.step()
        finally:
            torch.clear_autocast_cache()
    torch.cuda.set_rng_state(before)
    return graph


@contextlib.contextmanager
def _surroundings(model: Any, device: str) -> Iterator[None]:
    """What holds around a step: its attention, and weights that autocast rounds each time anew."""
    import torch
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attention)
    before = str(model.config._attn_implementation)
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    model.set_attn_implementation(ATTENTION)
    try:
        with torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False):
            yield
    finally:
        model.set_attn_implementation(before)


def _attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **asked: Any) -> Any:
    """Attention of one token a row, (rows, heads, 1, width), over buffers; returns (rows, 1, heads, width).

    The query heads of a key head stand as its queries: with a mask, sdpa in transformers 5.17 copies each key
    head for all of them, more than everything else that a step reads.
    """
    from torch.nn.functional import scaled_dot_product_attention

    if query.shape[2] != 1 or any(asked.get(name) is not None for name in _NOT_THERE):
        raise RuntimeError(f"{type(module).__name__} asks attention for more than a step has")
    num_rows, num_heads, _, width = query.shape
    query = query.to(value.dtype).reshape(num_rows, key.shape[1], -1, width)
    scale = asked.get("scaling")
    output = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scale)
    return output.reshape(num_rows, 1, num_heads, width), None
