"""The rewards of a run as TRL calls them: watched, so that a fault ends it with a sentence, and kept."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.checks.reward_calls import as_rewards, awaited, is_async
from tunesmith.rewards.completions import text_of
from tunesmith.rewards.loading import load, raised_at
from tunesmith.runs.folder import RunFolder
from tunesmith.train.events import Listener, Sample

# A reward that asks a slow judge comes back in seconds; one that takes minutes for a batch hangs.
TIME_LIMIT_S = 300.0
# Rewards that lie closer are the same: 0.1 + 0.2 against 0.3.
SAME = 1e-6


class _OutOfTime(BaseException):
    """A call takes too long; no Exception, which a loop of retries would take for its own."""


class RewardFailed(Exception):
    """A reward raised, hung, or gave what is no reward, in the middle of a run."""


def load_rewards(config: RunConfig) -> dict[str, Callable[..., Any]]:
    """The run's reward functions by the names that its metrics have, each name once.

    Raises:
        ConfigError: one can't be found or made.
    """
    rewards: dict[str, Callable[..., Any]] = {}
    for source in config.rewards:
        base = source.function.rpartition(":")[2] or source.function
        name, number = base, 2
        while name in rewards:
            name, number = f"{base}_{number}", number + 1
        rewards[name] = load(source)
    return rewards


class Judge:
    """Wraps the rewards of a run; after each batch it keeps and tells a few answers with their rewards."""

    def __init__(
        self,
        rewards: Mapping[str, Callable[..., Any]],
        weights: Sequence[float],
        group_size: int,
        run: RunFolder,
        listener: Listener,
    ) -> None:
        self._weights = dict(zip(rewards, weights, strict=True))
        self._group_size = group_size
        self._run = run
        self._listener = listener
        self._given: dict[str, list[float | None]] = {}
        self._num_live = self._num_given = 0
        # Set to what tells that the trainer evaluates: such answers are no step's.
        self.evaluates: Callable[[], bool] = lambda: False
        self.functions = [self._watched(name, function) for name, function in rewards.items()]

    def since_last(self) -> tuple[int, int]:
        """Batches since the last call in which rewards of a group differed, and rewards that were numbers."""
        found = self._num_live, self._num_given
        self._num_live = self._num_given = 0
        return found

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` that raises RewardFailed with a sentence, whatever goes wrong in it."""

        def finish(value: Any, given: dict[str, Any]) -> list[float | None]:
            rewards = _checked(name, value, given["completions"])
            self._take(name, rewards, given)
            return rewards

        def call(**given: Any) -> list[float | None]:
            try:
                with _time_limit():
                    value = function(**given)
                    # Waited for here and not by TRL, whose thread no alarm reaches.
                    value = awaited(value) if is_async(function) else value
                    value = list(value) if isinstance(value, Iterator) else value
            except _OutOfTime as error:
                raise RewardFailed(f"reward {name} raised TimeoutError: {error}") from error
            except (Exception, SystemExit) as error:  # whatever a user's function raises (test_judge.py)
                raise RewardFailed(f"reward {name} raised {raised_at(error)}") from error
            return finish(value, given)

        call.__name__ = name  # TRL names the metrics after it
        return call

    def _take(self, name: str, rewards: list[float | None], given: dict[str, Any]) -> None:
        self._given[name] = rewards
        if len(self._given) == len(self._weights):
            self._keep(given)
            self._given = {}

    def _keep(self, given: dict[str, Any]) -> None:
        if self.evaluates():
            return
        state, completions = given["trainer_state"], given["completions"]
        totals = [self._total(i) for i in range(len(completions))]
        self._num_given += sum(each is not None for values in self._given.values() for each in values)
        groups = groups_of(len(totals), self._group_size)
        self._num_live += any(_spread([totals[i] for i in group]) > SAME for group in groups)
        if not state.is_world_process_zero:
            return
        for index in telling(totals, self._group_size):
            sample = Sample(
                step=state.global_step + 1,
                num_steps=state.max_steps,
                prompt=text_of(given["prompts"][index]),
                completion=text_of(completions[index]),
                rewards={name: values[index] for name, values in self._given.items()},
                reward=0.0 if totals[index] is None else totals[index],
            )
            self._run.append_completion(vars(sample))
            self._listener(sample)

    def _total(self, index: int) -> float | None:
        """The weighted sum of an answer's rewards; None where all of them gave None, as TRL has it."""
        given = {name: values[index] for name, values in self._given.items()}
        told = [self._weights[name] * value for name, value in given.items() if value is not None]
        return sum(told) if told else None


def _spread(totals: Sequence[float | None]) -> float:
    told = [each for each in totals if each is not None]
    return max(told) - min(told) if told else 0.0


def groups_of(number: int, size: int) -> list[range]:
    """The whole groups in a batch of answers; the batch itself where it holds none."""
    groups = [range(start, start + size) for start in range(0, number - size + 1, size)]
    return groups or [range(number)]


def telling(totals: Sequence[float | None], group_size: int) -> list[int]:
    """Which answers of a batch to show: best and worst of the group that differs most."""
    worth = [float("-inf") if each is None else each for each in totals]
    ends = [
        (max(group, key=lambda i: worth[i]), min(group, key=lambda i: worth[i]))
        for group in groups_of(len(totals), group_size)
    ]
    return list(dict.fromkeys(max(ends, key=lambda pair: _spread([totals[i] for i in pair]))))


def _checked(name: str, value: Any, completions: Sequence[Any]) -> list[float | None]:
    rewards = as_rewards(value, len(completions))
    if isinstance(rewards, str):
        raise RewardFailed(f"reward {name} {rewards}")
    for reward, completion in zip(rewards, completions, strict=True):
        if reward is not None and not math.isfinite(reward):
            words = " ".join(text_of(completion).split())[:80]
            raise RewardFailed(f"reward {name} gives {reward} for {words!r}")
    return rewards


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise TimeoutError in a call that never ends. Only the main thread, and no Windows, can do this."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _OutOfTime(f"it did not return within {TIME_LIMIT_S:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S, TIME_LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
