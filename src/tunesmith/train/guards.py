"""What ends or warns of a training that goes wrong: no numbers, losses that jump, steps that stall."""

from __future__ import annotations

import faulthandler
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from tunesmith.runs.folder import RunFolder
from tunesmith.train.events import Listener, Notice
from tunesmith.train.finite import NotFinite

# A loss this many times the median of the last ones has jumped.
SPIKE = 3.0
NUM_BEFORE = 20
# Without a step for so long, and for so many times the longest one, the run has stalled.
STALL_S = 600.0
STALL_STEPS = 20.0
_TICK_S = 5.0


class FiniteGuard(TrainerCallback):
    """Ends a run at the step whose loss or gradients are NaN or infinite, before anything of it is kept.

    A GPU isn't waited for: there the step before is judged, and this one only where a log or a checkpoint
    waits anyway.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}
        self._before: tuple[int, dict[str, Any]] | None = None

    def see(self, what: str, value: Any) -> None:
        """Take the loss of a micro-batch, or the norm of the gradients."""
        finite = value.detach().isfinite().all()
        self._seen[what] = self._seen[what] & finite if what in self._seen else finite

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = (
            state.global_step,
            {what: finite.to("cpu", non_blocking=True) for what, finite in self._seen.items()},
        )
        on_gpu = any(finite.is_cuda for finite in self._seen.values())
        self._seen = {}
        before, self._before = self._before, now
        if before is not None:
            _judge(*before)
        last = state.global_step >= state.max_steps
        if not on_gpu or control.should_log or control.should_save or last:
            if on_gpu:
                import torch

                torch.cuda.current_stream().synchronize()
            _judge(*now)
            self._before = None


def _judge(step: int, finite: dict[str, Any]) -> None:
    for what in ("loss", "gradients"):
        if what in finite and not bool(finite[what]):
            raise NotFinite(step, what)


class SpikeCallback(TrainerCallback):
    """Tells once of a run that its loss jumped."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._losses: deque[float] = deque(maxlen=NUM_BEFORE)
        self._said = False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or not math.isfinite(loss):
            return
        if not self._said and len(self._losses) == NUM_BEFORE and spikes(self._losses, loss):
            self._said = True
            self._listener(
                Notice(
                    f"the loss jumped to {loss:.3g} at step {state.global_step} (median of the {NUM_BEFORE} "
                    f"before: {statistics.median(self._losses):.3g}): a lower learning_rate or more "
                    "warmup_steps may be needed, or these rows be looked at"
                )
            )
        self._losses.append(loss)


def spikes(before: Sequence[float], loss: float) -> bool:
    """Whether a loss is far above those before it; of losses around zero (rewards) that can't be said."""
    middle = statistics.median(before)
    return middle > 0 and min(before) > 0 and loss > SPIKE * middle


class Watchdog(TrainerCallback):
    """Tells, and writes where every thread stands, when no step ends for a long time."""

    def __init__(self, run: RunFolder, listener: Listener) -> None:
        self._run = run
        self._listener = listener
        self._moved_at = time.monotonic()
        self._longest_s = 0.0
        self._ended = threading.Event()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._moved_at = time.monotonic()
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        self._longest_s, self._moved_at = max(self._longest_s, now - self._moved_at), now

    # An evaluation and a save move as well.
    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._moved_at = time.monotonic()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._ended.set()

    def stop(self) -> None:
        """End the watch."""
        self._ended.set()

    def _watch(self) -> None:
        told_for = 0.0
        while not self._ended.wait(min(_TICK_S, STALL_S / 10)):
            still_s = time.monotonic() - self._moved_at
            if still_s > max(STALL_S, STALL_STEPS * self._longest_s) and told_for != self._moved_at:
                told_for = self._moved_at
                self._tell(still_s)

    def _tell(self, still_s: float) -> None:
        path = self._run.path / "stalled.txt"
        with path.open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file)
        self._listener(
            Notice(f"no step ended for {still_s:.0f} s; where every thread stands is written to {path}")
        )
