"""Answers sampled without waiting for launches: one step of decoding, captured as a CUDA graph and replayed.

`generate` of transformers prepares and launches more than a thousand kernels for each token of a small model,
and an H100 waits for most of them (benchmarks/RESULTS.md). Here keys and values lie in buffers of a fixed
size, a step reads and writes the same addresses each time, sampling included, and a GPU replays it. Prompts
that stand in the batch several times in a row are read once.

What the loop doesn't know is left to `generate`. The first answers of each captured step are scored by an
ordinary pass of the model as well; if the two disagree, `generate` answers from then on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tunesmith.train.attention import VARLEN
from tunesmith.train.decoder import Decoder
from tunesmith.train.graphs import cause
from tunesmith.train.relayout import FP32_TOLERANCE, SIXTEEN_BIT_TOLERANCE
from tunesmith.train.shared_prompts import prefill, repeats

# Fields of a generation config that say how a token is chosen: the loop follows these.
_CHOOSING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "pad_token_id", "eos_token_id")
# It follows the first of these; the rest is without effect beside it, a prompt and nothing to compile.
_KNOWN = {"max_new_tokens", "max_length", "bos_token_id", "disable_compile", "_from_model_config"}
_KNOWN |= {"transformers_version", *_CHOOSING}
# Buffers have room for a multiple of this: prompts of other lengths share them.
_ROUND = 64
# States that are kept from call to call (training, evaluation), if their buffers hold at most this share of
# the device's memory: what is kept isn't there for the training step, and to capture again takes few steps.
_MOST_KEPT, _SHARE_KEPT = 2, 0.02
# How much of the first answers is scored twice.
_ROWS_CHECKED, _TOKENS_CHECKED = 8, 128


def decode_captured(model: Any, notify: Callable[[str], None]) -> None:
    """Let `model.generate` answer by the loop where it can; `notify` hears why not, once a reason."""
    as_before, loop = model.generate, Loop(model)
    said: set[str] = set()
    failed: list[str] = []

    @functools.wraps(as_before)
    def generate(*args: Any, **kwargs: Any) -> Any:
        if args or failed:
            return as_before(*args, **kwargs)
        try:
            config, inputs = model._prepare_generation_config(**{"generation_config": None} | kwargs)
            why = obstacle(model, config, inputs)
            if why is None:
                return loop.answer(inputs["input_ids"], inputs["attention_mask"], config)
        except Exception as error:  # what can't be captured, or read one token at a time so, generate knows
            # how to (test_decode.py)
            first = cause(error)
            why = str(first).split("\n", 1)[0][:120] or type(first).__name__
            failed.append(why)
            loop.kept.clear()
        if why not in said:
            said.add(why)
            notify(f"answers are sampled by transformers' generate, a slower way: {why}")
        return as_before(**kwargs)

    model.generate = generate


def obstacle(model: Any, config: Any, inputs: dict[str, Any]) -> str | None:
    """Why the loop can't answer a call with this generation config and these inputs; None where it can."""
    given = {name: value for name, value in inputs.items() if value is not None}
    if given.keys() != {"input_ids", "attention_mask"}:
        return f"generate was given {', '.join(sorted(given))}"
    ids, mask = given["input_ids"], given["attention_mask"]
    if ids.device != model.device or ids.dim() != 2 or ids.shape[1] < 2 or not bool(mask[:, -1].all()):
        return "prompts aren't padded on the left"
    usual = config._get_default_generation_params()
    for name, value in config.to_dict().items():
        if name not in _KNOWN and value is not None and value is not False and value != usual.get(name):
            return f"{name} is {value}"
    if None in (config.max_new_tokens, config.pad_token_id, config.eos_token_id) or not config.use_cache:
        return "max_new_tokens, pad_token_id, eos_token_id and use_cache aren't all set"
    return _obstacle_of(model)


def _obstacle_of(model: Any) -> str | None:
    """Why the loop can't answer for the model as it is now."""
    from torch.nn.modules.dropout import _DropoutNd
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
    from transformers.integrations.fsdp import is_fsdp_managed_module

    config, attention = model.config, model.config._attn_implementation
    trained = list(model.modules()) if model.training else []
    dropout = any(isinstance(each, _DropoutNd) and each.p > 0 for each in trained)
    reasons = {
        "the model isn't of text alone": config.is_encoder_decoder or config is not config.get_text_config(),
        f"attention is {attention}": attention not in ("sdpa", VARLEN),
        "weights are sharded": is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model),
        "the model lies on several devices": len({weight.device for weight in model.parameters()}) > 1,
        "the adapter changes what the model reads": "prepare_inputs_for_generation" in vars(model),
        "activations are recomputed": any(getattr(each, "gradient_checkpointing", False) for each in trained),
        "dropout is on": dropout or (model.training and getattr(config, "attention_dropout", 0)),
    }
    return next((why for why, holds in reasons.items() if holds), None)


class Loop:
    """Answers of one model, and the states that are kept from one call to the next."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.kept: list[Decoder] = []

    def answer(self, ids: Any, mask: Any, config: Any) -> Any:
        """The rows of `ids` with their answers behind, as `generate` gives them; RuntimeError where the model
        keeps another cache than keys and values of all tokens, or doesn't agree."""
        import torch

        # Buffers that are made in inference mode can't be written to outside of it, by later calls.
        with torch.inference_mode(False), torch.no_grad():
            times = repeats(torch.cat([ids, mask], dim=1))
            layers, dtype = _read(self.model, ids[::times, :-1], mask[::times, :-1])
            state = self._state(config, dtype, ids.shape[0], ids.shape[1] + config.max_new_tokens, layers)
            state.fill(ids, mask, layers, times)
            state.run(config.max_new_tokens)
            if not state.is_checked:
                check(self.model, state, mask)
                state.is_checked = True
            return state.answers()

    def _state(self, config: Any, dtype: Any, num_rows: int, num_tokens: int, layers: list[Any]) -> Decoder:
        """A kept one with room that was made under the same circumstances; otherwise a new one."""
        import torch

        chosen_by = str([getattr(config, name) for name in _CHOOSING])
        key = (num_rows, dtype, chosen_by, _circumstances(self.model))
        room = -(-num_tokens // _ROUND) * _ROUND
        # All of a buffer is read at each token: one of twice the length isn't worth its reading.
        fit = [each for each in self.kept if each.key == key and room <= each.room <= 2 * room]
        self.kept = [each for each in self.kept if each.key != key]
        state = fit[0] if fit else Decoder(self.model, config, key, room, layers)
        if not state.graph or state.num_bytes <= _SHARE_KEPT * torch.cuda.mem_get_info()[1]:
            self.kept = [state, *self.kept][:_MOST_KEPT]
        return state


def _read(model: Any, ids: Any, mask: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """Keys and values of all layers, (rows, heads, tokens, width), and the type that attention rounds to."""
    import torch
    from transformers.cache_utils import DynamicLayer

    rounded: list[bool] = []
    # Asked within the model: a trainer's begins its autocast there.
    ask = functools.partial(torch.is_autocast_enabled, ids.device.type)
    with model.get_input_embeddings().register_forward_pre_hook(lambda *_: rounded.append(ask())):
        kept = prefill(model, ids, mask).layers
    plain = all(type(each) is DynamicLayer and each.is_initialized for each in kept)
    if not plain or any(each.keys.shape != each.values.shape for each in kept):
        raise RuntimeError("the model's cache isn't keys and values of all tokens")
    dtype = torch.get_autocast_dtype(ids.device.type) if rounded[0] else kept[0].keys.dtype
    return [(each.keys, each.values) for each in kept], dtype


def _circumstances(model: Any) -> tuple[Any, ...]:
    """What a captured step depends on: mode, adapters, and the addresses of all weights."""
    adapters = {
        (str(each.active_adapters), bool(each.disable_adapters), bool(getattr(each, "merged", False)))
        for each in model.modules()
        if hasattr(each, "active_adapters") and hasattr(each, "disable_adapters")
    }
    addresses = hash(tuple(each.data_ptr() for kind in (model.parameters, model.buffers) for each in kind()))
    return model.training, frozenset(adapters), addresses


def check(model: Any, state: Decoder, mask: Any) -> None:
    """Raise a RuntimeError if log-probabilities of some answers lie farther than rounding explains from those
    of an ordinary pass over prompt and answer."""
    import torch

    lengths, off = state.lengths().clamp(max=_TOKENS_CHECKED).tolist(), []
    for row in range(0, len(lengths), -(-len(lengths) // _ROWS_CHECKED)):
        behind = slice(state.start, state.start + lengths[row])
        # Without its padding: the loop had another mask and, it may be, other positions.
        text = torch.cat([state.tokens[row, : state.start][mask[row].bool()], state.tokens[row, behind]])[
            None
        ]
        seen, last = torch.ones_like(text), lengths[row] + 1
        out = model(input_ids=text, attention_mask=seen, use_cache=False, logits_to_keep=last)
        expected = out.logits[0, :-1].float().log_softmax(dim=-1).gather(1, state.tokens[row, behind, None])
        off.append((expected[:, 0] - state.log_probs[row, behind]).abs())
    found = torch.cat(off)
    if state.bias.dtype == torch.float32 and not (found.is_cuda and torch.backends.cuda.matmul.allow_tf32):
        agrees = found.max() <= FP32_TOLERANCE
    else:  # the mean of few tokens is a rough one
        agrees = found.mean() <= SIXTEEN_BIT_TOLERANCE * (1 + 3 / len(found) ** 0.5)
    if not bool(agrees):
        raise RuntimeError(
            "one token at a time the model gives other log-probabilities than a whole text at once"
        )
