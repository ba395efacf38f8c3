"""Callbacks of the trainer: progress and metrics, what a checkpoint ends, and runs that learn nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from tunesmith.runs.folder import RunFolder
from tunesmith.train.events import Evaluated, Listener, Notice, Progress
from tunesmith.train.guards import FiniteGuard, SpikeCallback, Watchdog
from tunesmith.train.judge import Judge
from tunesmith.train.keeper import Keeper
from tunesmith.train.processes import largest
from tunesmith.train.setup import Setup


class ProgressCallback(TrainerCallback):
    """Tells the listener of every step and writes every log to metrics.jsonl."""

    def __init__(self, run: RunFolder, listener: Listener, headline: Sequence[tuple[str, str]]) -> None:
        self._run = run
        self._listener = listener
        self._headline = headline
        self._told: dict[str, float] = {}
        self._loss: float | None = None
        self._tokens_per_s: float | None = None
        self._last_tokens = 0.0
        self._first_step = self._logged_step = 0
        self._began_at = self._step_began_at = self._step_ended_at = self._warm_at = 0.0
        # Seconds of the steps since the last log: evaluations and checkpoints are no part of the speed.
        self._stepped_s = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began_at = time.monotonic()
        self._first_step = self._logged_step = state.global_step
        told = (row["num_tokens"] for row in reversed(state.log_history) if "num_tokens" in row)
        self._last_tokens = next(told, 0.0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_began_at = time.monotonic()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        logs = dict(logs or {})
        if "loss" in logs and state.global_step > self._logged_step:
            # The loss was waited for, and with it what a GPU still had to do of the step.
            self._stepped_s += time.monotonic() - self._step_ended_at
            steps, seconds = state.global_step - self._logged_step, max(self._stepped_s, 1e-9)
            logs["step_s"] = round(seconds / steps, 5)
            if "num_tokens" in logs:
                self._tokens_per_s = (logs["num_tokens"] - self._last_tokens) / seconds
                self._last_tokens = logs["num_tokens"]
                logs["tokens_per_s"] = round(self._tokens_per_s, 1)
            self._logged_step, self._stepped_s = state.global_step, 0.0
        row = {"step": state.global_step, "time_s": round(time.monotonic() - self._began_at, 3), **logs}
        self._run.append_metrics({key: _finite(value) for key, value in row.items()})
        if "loss" in logs:
            self._loss = logs["loss"]
            self._told = self._headlines(logs, "")
            self._tell_progress(state)
        if "eval_loss" in logs:
            told = self._headlines(logs, "eval_")
            if not math.isfinite(logs["eval_loss"]):
                self._listener(Notice("this evaluation's loss is no finite number: it is never the best one"))
            self._listener(Evaluated(state.global_step, float(logs["eval_loss"]), told))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_ended_at = time.monotonic()
        self._stepped_s += self._step_ended_at - self._step_began_at
        # A step that is logged is told with its own loss, a moment later.
        if not control.should_log:
            self._tell_progress(state)

    def _headlines(self, logs: dict[str, Any], prefix: str) -> dict[str, float]:
        found = {words: logs.get(f"{prefix}{name}") for name, words in self._headline}
        return {words: float(value) for words, value in found.items() if value is not None}

    def _tell_progress(self, state: Any) -> None:
        done, now = state.global_step - self._first_step, time.monotonic()
        # The first step holds what happens once (kernels chosen, memory found): the others set the pace.
        eta_s = None
        if done <= 1:
            self._warm_at = now
        else:
            eta_s = (now - self._warm_at) / (done - 1) * (state.max_steps - state.global_step)
        self._listener(
            Progress(state.global_step, state.max_steps, self._loss, self._tokens_per_s, eta_s, self._told)
        )


class KeeperCallback(TrainerCallback):
    """Logs what a checkpoint ends, and tells at the next step that one couldn't be written."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The losses since the last log are in no checkpoint: a run that goes on would tell others.
        control.should_log = control.should_log or control.should_save
        self._keeper.check()

    on_epoch_end = on_step_end


class SignalCallback(TrainerCallback):
    """Stops a run in which for so many steps all answers to a prompt got one reward: nothing is learned."""

    def __init__(self, max_steps: int | None, listener: Listener) -> None:
        # Steps that were told of, and whether any of them taught something.
        self.num_steps, self.learned = 0, False
        self.reason: str | None = None
        self.advice = ""
        # Set to the judge of the run's answers, which sees them before TRL subtracts a KL term.
        self.judge: Any = None
        self._max_steps = max_steps
        self._listener = listener
        self._num_dead = self._num_given = 0
        self._last_step = 0
        self._said_cut = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last_step = state.global_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        logs = {} if logs is None else logs
        dead = logs.get("frac_reward_zero_std")
        if dead is None:
            return
        num_live, num_given = self.judge.since_last()
        if not num_given:  # TRL takes the spread of no numbers for one
            logs["frac_reward_zero_std"] = dead = 1.0
        num_live, num_given = int(largest(num_live)), int(largest(num_given))
        is_dead = not num_live
        num_steps = state.global_step - self._last_step
        self.num_steps, self.learned = self.num_steps + num_steps, self.learned or not is_dead
        self._num_dead = self._num_dead + num_steps if is_dead else 0
        self._num_given = self._num_given + num_given if is_dead else 0
        self._last_step = state.global_step
        self._say_cut(logs)
        limit = self._max_steps
        if limit is not None and self._num_dead >= limit and state.global_step < state.max_steps:
            self._explain(float(logs.get("reward") or 0.0))
            control.should_save = True
            control.should_training_stop = True

    def _explain(self, reward: float) -> None:
        start = f"no signal in {self._num_dead} steps"
        if not self._num_given:
            self.reason = f"{start}: the rewards gave None for every answer"
            self.advice = "Let one of the rewards give a number for answers that it can't judge, such as 0"
            return
        self.reason = f"{start}: all answers to a prompt got the same reward, {reward:.3g} on average"
        self.advice = (
            "If they are all wrong, give easier prompts, a reward with partial credit, more num_generations "
            "or a higher trl.temperature; if all right, harder prompts; if the reward is constant, mend it"
        )

    def _say_cut(self, logs: dict[str, Any]) -> None:
        if not self._said_cut and (logs.get("completions/clipped_ratio") or 0) >= 1:
            self._said_cut = True
            self._listener(
                Notice(
                    "every answer is cut at max_completion_length: rewards judge beginnings, and with "
                    "trl.mask_truncated_completions nothing is learned"
                )
            )


def _finite(value: Any) -> Any:
    """JSON has no NaN; its name as text keeps the row readable by every parser."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Guards:
    """All that watches over the steps of a run; as a context it ends what runs beside them."""

    def __init__(self, setup: Setup, run: RunFolder, listener: Listener) -> None:
        self.finite = FiniteGuard()
        self.dead = SignalCallback(setup.config.max_steps_without_signal, listener)
        self._spikes = SpikeCallback(listener)
        self._watchdog = Watchdog(run, listener)
        self._listener = listener

    def callbacks(self, judge: Judge | None, keeper: Keeper) -> list[TrainerCallback]:
        """In the order in which they look at a step; `judge` is that of the run's answers."""
        self.dead.judge = judge
        return [KeeperCallback(keeper), self.finite, self.dead, self._spikes, self._watchdog]

    def say_what_was_learned(self) -> None:
        """Tell of a run whose rewards taught nothing."""
        if self.dead.num_steps and not self.dead.learned:
            steps = f"in none of {self.dead.num_steps} steps"
            self._listener(Notice(f"nothing was learned: {steps} did rewards of a group differ"))

    def __enter__(self) -> Guards:
        return self

    def __exit__(self, *error: object) -> None:
        self._watchdog.stop()
