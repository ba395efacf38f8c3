"""The passes of a model's layers as CUDA graphs: launched once, replayed at every step.

A small model's kernels are done before Python can launch the next: at 0.5B the card waits for most of a step.
Here the layers' forward and backward passes over a row of documents are captured, one pair of graphs for each
of the few lengths that rows have (`documents.round_up`), and replayed; loss, optimizer and all that decides
stay as they are. Gradients are handed to autograd, so that accumulation, hooks, clipping and optimizers see
what they always see. Source of the method: pytorch.org/docs, "CUDA Graphs", partial-network capture.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from tunesmith.errors import first_line
from tunesmith.plan.room import Room
from tunesmith.train.graphs import capturing, cause
from tunesmith.train.relayout import that_matter
from tunesmith.train.stand_ins import CastOnce, StandIns, copy_each

# The call that documents make of the layers (train/documents.py); any other is answered by the model itself.
_KNOWN = frozenset({"input_ids", "position_ids", "cu_seq_lens_q", "max_length_q"})
# Shapes of which graphs are kept at most; each costs about a second and some memory of the driver.
MOST_GRAPHS = 64
# The first capture of a process may meet a library that isn't loaded yet.
MOST_FAILURES = 2


@dataclass
class _Graphs:
    """One shape: the graphs, and the buffers that they read and write."""

    inputs: dict[str, Any]
    forward: Any
    hidden: Any
    backward: Any = None
    hidden_gradient: Any = None
    # One for each trained weight, None where a weight isn't read; the same ones for all shapes.
    gradients: tuple[Any, ...] = ()


class _Pool:
    """Graphs of passes that gradients are asked of, or of those that they aren't, in memory of their own.

    A larger row than any before begins anew: in the memory of the largest there is room for all the others,
    in that of a smaller one there isn't, and it would be kept beside.
    """

    def __init__(self) -> None:
        self.seen: dict[Any, _Graphs | None] = {}
        self.num_failed = 0
        self.clear()

    def make_room(self, num_tokens: int) -> None:
        """For graphs of a row of so many tokens."""
        if num_tokens > self._largest > 0:
            torch.cuda.synchronize()  # a replay may still be reading
            self.clear()
            torch.cuda.empty_cache()
        self._largest = max(num_tokens, self._largest)

    def clear(self) -> None:
        """Forget the graphs, not which shapes were seen."""
        self.seen = dict.fromkeys(self.seen)
        self.memory = torch.cuda.graph_pool_handle()
        self._largest = 0


class _Token:
    """Lives as long as a forward pass waits for its backward pass."""


class _Replay(torch.autograd.Function):
    """A captured forward pass of layers with these `weights`, whose backward pass is captured too."""

    @staticmethod
    def forward(ctx: Any, graphs: _Graphs, token: _Token, *weights: Any) -> Any:
        ctx.graphs, ctx.token, ctx.dtypes = graphs, token, [weight.dtype for weight in weights]
        graphs.forward.replay()
        return graphs.hidden.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
        if ctx.token is None:
            raise RuntimeError("a captured pass goes back once: what it kept is another's by now")
        graphs: _Graphs = ctx.graphs
        graphs.hidden_gradient.copy_(gradient)
        graphs.backward.replay()
        ctx.token = None
        # The next pass writes over those of the graph.
        pairs = zip(graphs.gradients, ctx.dtypes, strict=True)
        kept = [None if each is None else torch.empty_like(each, dtype=dtype) for each, dtype in pairs]
        copy_each(kept, graphs.gradients)
        return None, None, *kept


class Captured:
    """Answers for the layers of a model (`backbone`, without its head) by graphs where it can."""

    def __init__(self, backbone: Any, notify: Callable[[str], None], room: Room | None = None) -> None:
        self._backbone, self._notify, self._room = backbone, notify, room
        self._as_before = backbone.forward
        self._adapter = next((each for each in backbone.modules() if isinstance(each, BaseTunerLayer)), None)
        self._weights = [each for each in backbone.parameters() if each.requires_grad]
        # One for the graphs of all shapes, by what autocast casts to; the gradients lie beside.
        self._stand_ins: dict[Any, StandIns] = {}
        # Where all weights stand: a graph reads those that it was captured with.
        self._places = [
            (module._parameters, name)
            for module in backbone.modules()
            for name, weight in module._parameters.items()
            if weight is not None
        ]
        self._waits: Callable[[], _Token | None] = lambda: None
        # What is asked between a forward and its backward pass (a reference) must leave its memory alone.
        self._pools = {asked: _Pool() for asked in (False, True)}

        @functools.wraps(self._as_before)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._forward(*args, **kwargs)

        backbone.forward = forward

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        call = that_matter(kwargs)
        asked = torch.is_grad_enabled() and bool(self._weights)
        if args or call.keys() != _KNOWN or self._pools[asked].num_failed == MOST_FAILURES:
            return self._as_before(*args, **kwargs)
        if asked and self._waits() is not None:
            return self._as_before(**kwargs)
        graphs = self._graphs_for(call, asked)
        if graphs is None:
            return self._as_before(**kwargs)
        for name, value in graphs.inputs.items():
            value.copy_(call[name])
        if asked:
            token = _Token()
            self._waits = weakref.ref(token)
            hidden = _Replay.apply(graphs, token, *self._weights)
        else:
            graphs.forward.replay()
            hidden = graphs.hidden
        from transformers.modeling_outputs import BaseModelOutputWithPast

        return BaseModelOutputWithPast(last_hidden_state=hidden)

    def release(self) -> None:
        """Give back graphs and memory: the layers answer themselves from now on."""
        self._backbone.forward = self._as_before
        self._pools.clear()
        self._stand_ins.clear()

    def _graphs_for(self, call: dict[str, Any], asked: bool) -> _Graphs | None:
        """Graphs for a call of this shape, or None at its first time: most shapes that matter come again."""
        key = (
            call["input_ids"].shape,
            call["cu_seq_lens_q"].shape,
            call["max_length_q"],
            self._backbone.training,
            torch.is_autocast_enabled("cuda"),
            self._adapter
            and (self._adapter.disable_adapters, self._adapter.merged, *self._adapter.active_adapters),
            hash(tuple(parameters[name].data_ptr() for parameters, name in self._places)),
        )
        pool, num_tokens = self._pools[asked], call["input_ids"].numel()
        if key not in pool.seen:
            pool.seen[key] = None
            return None
        if pool.seen[key] is None and self._has_room(asked, num_tokens):
            pool.make_room(num_tokens)
            try:
                pool.seen[key] = self._capture(call, asked)
            except RuntimeError as error:  # out of memory is one
                self._give_up(asked, error)
        return pool.seen[key]

    def _has_room(self, asked: bool, num_tokens: int) -> bool:
        """Whether graphs of a row can keep activations beside those of a pass that isn't captured.

        Their memory is theirs alone, and a shape's first pass is no graph's. Asked while no step's
        activations are alive. By the plan where there is one: what was seen so far may lack moments,
        gradients that are added up, and the largest row.
        """
        captured = [
            key[0].numel() for pool in self._pools.values() for key, each in pool.seen.items() if each
        ]
        if len(captured) >= MOST_GRAPHS:
            return False
        held, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        there = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
        # Casts of weights, and gradients of the graphs, are laid out once.
        of_weights = sum(weight.nbytes for weight in self._weights) if asked else 0
        if asked and self._room:
            eager = peak - (of_weights if self._stand_ins else 0)
            return self._room.holds(max([*captured, num_tokens]), of_weights, peak=eager, there=there)
        of_a_pass = peak - held
        laid_out = 0 if self._stand_ins else of_weights
        # Graphs hold one pass; those of more shapes take little more.
        margin = of_a_pass // 4 if captured else 0
        # Gradients that are handed out stand beside those that were added up.
        return there - held >= of_a_pass + max(of_a_pass, of_weights) + laid_out + margin

    def _give_up(self, asked: bool, error: RuntimeError) -> None:
        """Once is no reason to."""
        pool = self._pools[asked]
        pool.clear()
        if asked:
            self._stand_ins.clear()
        pool.num_failed += 1
        if pool.num_failed == MOST_FAILURES:
            self._notify(f"the layers can't be captured as CUDA graphs: {first_line(cause(error))}")

    def _capture(self, call: dict[str, Any], asked: bool) -> _Graphs:
        inputs = {name: value.clone() for name, value in call.items() if isinstance(value, torch.Tensor)}
        fixed = {name: call[name] for name in call.keys() - inputs.keys()}
        memory = self._pools[asked].memory
        kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        # A cast that autocast kept would be of the weights as they were.
        exact = torch.autocast("cuda", kind, kind is not None, cache_enabled=False)
        stand_ins = self._stand_ins_for(kind) if asked else StandIns(self._backbone, [], None)
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with stand_ins.in_place(self._backbone) as leaves:
            with exact, CastOnce(kind) if kind else contextlib.nullcontext(), capturing(forward, memory):
                stand_ins.fill()
                hidden = self._as_before(**inputs, **fixed, use_cache=False).last_hidden_state
            if not asked:
                return _Graphs(inputs, forward, hidden)
            hidden_gradient = torch.zeros_like(hidden)
            kept = stand_ins.gradients(leaves)
            with torch.autocast("cuda", enabled=False), capturing(backward, memory):
                found = torch.autograd.grad(hidden, leaves, hidden_gradient, allow_unused=True)
                copy_each(kept, found)
        gradients = tuple(to if new is not None else None for to, new in zip(kept, found, strict=True))
        return _Graphs(inputs, forward, hidden.detach(), backward, hidden_gradient, gradients)

    def _stand_ins_for(self, kind: Any) -> StandIns:
        if kind not in self._stand_ins:
            self._stand_ins[kind] = StandIns(self._backbone, self._weights, kind)
            self._stand_ins[kind].fill()  # loads the kernel, which can't be done while a graph is captured
        return self._stand_ins[kind]
