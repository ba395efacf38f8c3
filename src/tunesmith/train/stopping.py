"""The orderly stop: a signal, or the end of the time that a run has, becomes a checkpoint and a reason."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import psutil
from transformers import TrainerCallback

from tunesmith.train.events import Listener, Notice
from tunesmith.train.keeper import Keeper
from tunesmith.train.processes import largest, world_size

# A step that goes on for longer after a signal is broken off, and done again when the run goes on. Slurm
# kills 30 s after SIGTERM (KillWait), Kubernetes and HF Jobs as well.
GRACE_S = 10.0
# What a checkpoint is expected to take before one was measured.
SAVE_S = 20.0
# Stands for the deadline among the numbers of signals, which end at 64.
_DEADLINE = 100


class EvaluationCut(BaseException):
    """An evaluation is broken off; no Exception, which somebody on the way might take for its own."""


def deadline_of(max_minutes: float | None, environ: Mapping[str, str]) -> float | None:
    """When this process has to be done, in seconds since 1970: `max_minutes` after it began, or by Slurm."""
    ends = []
    if max_minutes is not None:
        ends.append(psutil.Process().create_time() + max_minutes * 60)
    # https://slurm.schedmd.com/sbatch.html: the job's projected end as a UNIX timestamp.
    if environ.get("SLURM_JOB_END_TIME", "").isdigit():
        ends.append(float(environ["SLURM_JOB_END_TIME"]))
    return min(ends, default=None)


class StopCallback(TrainerCallback):
    """Stops a run in order when a signal comes or its time is over.

    What happens at once depends on what the run does: before the steps it ends; an evaluation is broken off
    and done again when the run goes on; a step is waited for, `GRACE_S` at most.
    """

    def __init__(self, listener: Listener, keeper: Keeper, deadline: float | None = None) -> None:
        self._why = 0
        self._listener = listener
        self._keeper = keeper
        self._deadline = deadline
        # A short time isn't spent on waiting for what a checkpoint might take.
        total_s = math.inf if deadline is None else max(0.0, deadline - time.time())
        self._grace_s, self._first_save_s = min(GRACE_S, total_s / 10), min(SAVE_S, total_s / 10)
        self._timers: list[threading.Timer] = []
        # Before the steps begin (a model is loaded, a reference asked) there is none to wait for.
        self.waits_for_step = False
        self.evaluates = False
        # Weights are half changed: nothing may be broken off.
        self.updates = False
        self._longest_step_s = 0.0
        self._ended_at = time.time()

    @property
    def received(self) -> bool:
        """Whether the run is to stop."""
        return bool(self._why)

    @property
    def by(self) -> str:
        """What stops it, as run.json names it."""
        return "deadline" if self._why == _DEADLINE else signal.Signals(self._why or signal.SIGINT).name

    @property
    def reason(self) -> str:
        """What stops it, as a sentence begins."""
        return "the time for this run is over" if self._why == _DEADLINE else f"{self.by} received"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._ended_at = time.time()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.updates = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.updates = False
        now = time.time()
        self._longest_step_s, self._ended_at = max(self._longest_step_s, now - self._ended_at), now
        if self._deadline is not None and now + self._longest_step_s + self._save_s() > self._deadline:
            self._why = self._why or _DEADLINE
        # All processes stop after the same step, whichever of them heard of it by then.
        self._why = int(largest(self._why))
        # A stop on the last step is no stop: the run is done.
        if self._why and state.global_step < state.max_steps:
            self._stop_timers()
            # The losses since the last log would be lost with this process.
            control.should_log = True
            control.should_save = True
            control.should_training_stop = True
            control.should_evaluate = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are kept while inside; handlers are put back after. Only the main thread can do this."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for number in before:
                signal.signal(number, self._receive)
            if self._deadline is not None:
                # For what is no step: the steps see for themselves how much time is left.
                self._start(self._left_s(), self._look_at_the_clock)
            yield
        finally:
            self._stop_timers()
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, a signal raises EvaluationCut; not among several processes, which wait for each other."""
        self.evaluates = world_size() == 1
        try:
            if self.received and self.evaluates:
                raise EvaluationCut
            yield
        finally:
            self.evaluates = False
            self._ended_at = time.time()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and self.waits_for_step:
            self._receive_again(number)
            return
        over = number == signal.SIGTERM and self._left_s() <= 0
        self._why = self._why or (_DEADLINE if over else number)
        if not self.waits_for_step:
            raise KeyboardInterrupt
        if self.evaluates:
            self.evaluates = False
            raise EvaluationCut
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        self._say(f"{self.by}: stopping after this step{again}")
        if world_size() == 1:
            self._start(self._grace_s, self._terminate)

    def _receive_again(self, number: int) -> None:
        if not self.updates and (world_size() == 1 or number == signal.SIGINT):
            self._stop_timers()
            raise KeyboardInterrupt

    def _save_s(self) -> float:
        saving = 2 * self._keeper.longest_s + 1 if self._keeper.longest_s else self._first_save_s
        return saving + 1.5 * self._keeper.longest_sending_s

    def _left_s(self) -> float:
        """Time until what isn't done has to be broken off."""
        if self._deadline is None:
            return math.inf
        return self._deadline - time.time() - self._save_s() - self._grace_s

    def _look_at_the_clock(self) -> None:
        left_s = self._left_s()  # more than at first, where checkpoints turned out to be quick
        if left_s > 0:
            self._start(left_s, self._look_at_the_clock)
        else:
            self._terminate()

    def _terminate(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def _start(self, seconds: float, then: Callable[[], None]) -> None:
        timer = threading.Timer(max(0.0, seconds), then)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _stop_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _say(self, message: str) -> None:
        # From another thread: this one may hold the terminal's lock just now.
        threading.Thread(target=self._listener, args=(Notice(message),), daemon=True).start()
