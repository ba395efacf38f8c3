"""The passes of a model's layers as CUDA graphs: launched once, replayed at every step.

A small model's kernels are done before Python can launch the next: at 0.5B the card waits for most of a step.
Here the layers' forward and backward passes over a row of documents are captured, one pair of graphs for each
of the few lengths that rows have (`documents.round_up`), and replayed; loss, optimizer and all that
decides stay as they are. Gradients are added up where `.grad` stands: accumulation, clipping and optimizers
see what they always see. Source of the method: pytorch.org/docs, "CUDA Graphs", partial-network capture.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from tunesmith.errors import first_line
from tunesmith.train.graphs import capturing, cause
from tunesmith.train.relayout import that_matter

# The call that documents make of the layers (train/documents.py); any other is answered by the model itself.
_KNOWN = frozenset({"input_ids", "position_ids", "cu_seq_lens_q", "max_length_q"})
# Shapes of which graphs are kept at most; each costs about a second and some memory of the driver.
MOST_GRAPHS = 64
# The first capture of a process may meet a library that isn't loaded yet.
MOST_FAILURES = 2
# Steps of a run from which on that is worth it.
WORTH_CAPTURING = 50


@dataclass
class _Graphs:
    """One shape: the graphs, and the buffers that they read and write."""

    inputs: dict[str, Any]
    forward: Any
    hidden: Any
    backward: Any = None
    hidden_gradient: Any = None


class _Token:
    """Lives as long as a forward pass waits for its backward pass."""


class _Replay(torch.autograd.Function):
    """A captured forward pass, whose backward pass is captured too; gradients of weights land in `.grad`."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Any, graphs: _Graphs, token: _Token, lay_out_gradients: Callable[[], None]
    ) -> Any:
        ctx.graphs, ctx.token, ctx.lay_out_gradients = graphs, token, lay_out_gradients
        graphs.forward.replay()
        return graphs.hidden.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[None, None, None, None]:
        if ctx.token is None:
            raise RuntimeError("a captured pass goes back once: what it kept is another's by now")
        ctx.lay_out_gradients()
        ctx.graphs.hidden_gradient.copy_(gradient)
        ctx.graphs.backward.replay()
        ctx.token = None
        return None, None, None, None


class Captured:
    """Answers for the layers of a model (`backbone`, without its head) by graphs where it can."""

    def __init__(self, backbone: Any, notify: Callable[[str], None]) -> None:
        self._backbone, self._notify = backbone, notify
        self._as_before = backbone.forward
        self._adapter = next((each for each in backbone.modules() if isinstance(each, BaseTunerLayer)), None)
        self._weights = [each for each in backbone.parameters() if each.requires_grad]
        # Makes the answer one that gradients are asked of, whatever the weights are.
        self._anchor = torch.zeros((), device=backbone.device, requires_grad=True)
        self._gradients: list[Any] = []
        self._waits: Callable[[], _Token | None] = lambda: None
        self._num_failed = 0
        self._seen: dict[Any, _Graphs | None] = {}
        # What is asked between a forward and its backward pass (a reference) must leave its memory alone.
        self._pools = {asked: torch.cuda.graph_pool_handle() for asked in (False, True)}

        @functools.wraps(self._as_before)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._forward(*args, **kwargs)

        backbone.forward = forward

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        call = that_matter(kwargs)
        if args or call.keys() != _KNOWN or self._num_failed == MOST_FAILURES or self._is_watched():
            return self._as_before(*args, **kwargs)
        asked = torch.is_grad_enabled() and bool(self._weights)
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
            hidden = _Replay.apply(self._anchor, graphs, token, self._lay_out_gradients)
        else:
            graphs.forward.replay()
            hidden = graphs.hidden
        from transformers.modeling_outputs import BaseModelOutputWithPast

        return BaseModelOutputWithPast(last_hidden_state=hidden)

    def release(self) -> None:
        """Give back graphs and memory: the layers answer themselves from now on."""
        self._backbone.forward = self._as_before
        self._seen.clear()

    def _is_watched(self) -> bool:
        """Whether something waits for each weight's gradient (optimizers a layer): a graph calls nobody."""
        return any(each._post_accumulate_grad_hooks or each._backward_hooks for each in self._weights)

    def _graphs_for(self, call: dict[str, Any], asked: bool) -> _Graphs | None:
        """Graphs for a call of this shape, or None at its first time: most shapes that matter come again."""
        key = (
            call["input_ids"].shape,
            call["cu_seq_lens_q"].shape,
            call["max_length_q"],
            asked,
            self._backbone.training,
            torch.is_autocast_enabled("cuda"),
            self._adapter
            and (self._adapter.disable_adapters, self._adapter.merged, *self._adapter.active_adapters),
            hash(tuple(weight.data_ptr() for weight in self._weights)),
        )
        if key not in self._seen:
            self._seen[key] = None
            return None
        if self._seen[key] is None and self._has_room():
            try:
                self._seen[key] = self._capture(call, asked)
            except RuntimeError as error:  # out of memory is one
                self._give_up(asked, error)
        return self._seen.get(key)

    def _has_room(self) -> bool:
        """Whether graphs can keep activations beside those of a pass that isn't captured: their memory is
        theirs alone, and a shape's first pass is no graph's. Asked while no step's activations are alive."""
        num_captured = sum(map(bool, self._seen.values()))
        held = torch.cuda.memory_allocated()
        of_a_pass = torch.cuda.max_memory_allocated() - held
        free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - held
        if num_captured:  # the graphs hold one; more shapes take little more
            return num_captured < MOST_GRAPHS and free >= 2.25 * of_a_pass
        return free >= 2 * of_a_pass

    def _give_up(self, asked: bool, error: RuntimeError) -> None:
        """Once is no reason to; the memory of a failed capture isn't used again."""
        self._num_failed += 1
        self._pools[asked] = torch.cuda.graph_pool_handle()
        if self._num_failed == MOST_FAILURES:
            self._seen.clear()
            self._notify(f"the layers can't be captured as CUDA graphs: {first_line(cause(error))}")

    def _lay_out_gradients(self) -> None:
        """`.grad` of every weight is the buffer that graphs add to; zero where nothing was added yet."""
        if not self._gradients:
            self._gradients = [torch.zeros_like(weight) for weight in self._weights]
            # The kernel is loaded here, which can't be done while a graph is captured.
            torch._foreach_add_(self._gradients, self._gradients)
        pairs = list(zip(self._weights, self._gradients, strict=True))
        if empty := [gradient for weight, gradient in pairs if weight.grad is None]:
            torch._foreach_zero_(empty)
        for weight, gradient in pairs:
            if weight.grad is not gradient:
                if weight.grad is not None:
                    gradient.copy_(weight.grad)
                weight.grad = gradient

    def _capture(self, call: dict[str, Any], asked: bool) -> _Graphs:
        inputs = {name: value.clone() for name, value in call.items() if isinstance(value, torch.Tensor)}
        fixed = call.keys() - inputs.keys()
        pool = self._pools[asked]

        def read() -> Any:
            given = inputs | {name: call[name] for name in fixed}
            return self._as_before(**given, use_cache=False).last_hidden_state

        if asked:
            self._lay_out_gradients()
        kind = torch.get_autocast_dtype("cuda")
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # A cast that was kept would be of the weights as they were.
        exact = torch.autocast("cuda", kind, torch.is_autocast_enabled("cuda"), cache_enabled=False)
        with exact, capturing(forward, pool):
            hidden = read()
        if not asked:
            return _Graphs(inputs, forward, hidden)
        hidden_gradient = torch.zeros_like(hidden)
        with torch.autocast("cuda", enabled=False), capturing(backward, pool):
            found = torch.autograd.grad(hidden, self._weights, hidden_gradient, allow_unused=True)
            pairs = zip(self._gradients, found, strict=True)
            used = [(kept, new) for kept, new in pairs if new is not None]
            torch._foreach_add_([kept for kept, _ in used], [new for _, new in used])
        return _Graphs(inputs, forward, hidden.detach(), backward, hidden_gradient)
