"""Reward functions called as TRL calls them, without letting them hang, print or raise."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from tunesmith.errors import TunesmithError, first_line
from tunesmith.rewards.loading import GIVEN, raised_at, silenced

# A call that takes longer is taken for one that never comes back; the slowest honest ones ask a model.
TIME_LIMIT_S = 20.0
# The columns that TRL 1.16 keeps back from a reward function (GRPOTrainer._calculate_rewards).
KEPT_BACK = ("prompt", "completion", "completion_ids")


class _Muted:
    """A stream that drops what one thread writes: a call that hung goes on when its silence has ended."""

    def __init__(self, stream: Any, thread: threading.Thread) -> None:
        self._stream, self._thread = stream, thread

    def write(self, text: str) -> int:
        if threading.current_thread() is self._thread:
            return len(text)
        return self._stream.write(text)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@dataclass
class Call:
    """What came of a call."""

    value: Any = None
    error: BaseException | None = None
    seconds: float = 0.0
    hung: bool = False


def call_reward(function: Callable[..., Any], arguments: dict[str, Any]) -> Call:
    """Call a reward as TRL does, on copies, in silence and for a limited time; what it raises is kept."""
    call = Call()

    def run() -> None:
        started = time.perf_counter()
        try:
            value = function(**copy.deepcopy(arguments))
            value = awaited(value) if is_async(function) else value
            call.value = list(value) if isinstance(value, Iterator) else value
        except BaseException as error:  # whatever it raises, SystemExit too, is what is to be reported
            call.error = error
        call.seconds = time.perf_counter() - started

    thread = threading.Thread(target=run, daemon=True, name="reward")
    with silenced():
        thread.start()
        thread.join(TIME_LIMIT_S)
        # TRL calls on the main thread, where alone signals work: rewards with time limits of their own.
        if not thread.is_alive() and isinstance(call.error, ValueError) and "signal" in str(call.error):
            call.error = None
            run()
            if isinstance(call.error, KeyboardInterrupt):
                raise call.error
    if thread.is_alive():
        sys.stdout, sys.stderr = _Muted(sys.stdout, thread), _Muted(sys.stderr, thread)
        return Call(hung=True, seconds=TIME_LIMIT_S)
    return call


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One loop for all calls: the clients that a reward keeps belong to the loop that they were used in."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="async rewards").start()
    return loop


def awaited(coroutine: Any) -> Any:
    """What a coroutine gives; it ends with the waiting, should that be broken off."""
    running = asyncio.run_coroutine_threadsafe(coroutine, _loop())
    try:
        return running.result()
    finally:
        running.cancel()


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a reward is to be awaited."""
    while isinstance(function, functools.partial):
        function = function.func
    return any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None))))  # noqa: B004


# --- TRL's side of the contract ------------------------------------------------------------------------


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a reward, by name."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some callables written in C have none: the call will show
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}


class Fault(NamedTuple):
    """Why a reward can't be called or fails, and what to do; one that is `whole` needs no word on when."""

    said: str
    advice: str
    whole: bool = False


def fault_of(error: BaseException) -> Fault:
    """What a reward raised; the library's own sentences stay as they are."""
    if isinstance(error, TunesmithError):
        place = f" ({error.where})" if error.where else ""
        return Fault(f"{error.message}{place}", error.fix or "", whole=True)
    said = raised_at(error)
    what = "the function" if said == first_line(error) else "that line"
    return Fault(f"raises {said}", f"mend {what}; what it can't judge may get 0 or None")


def signature_fault(parameters: dict[str, inspect.Parameter], columns: list[str]) -> Fault | None:
    """Why TRL can't call it: TRL passes everything by keyword, the columns too."""
    if twice := [name for name in columns if name in GIVEN[:2]]:
        said = f"can't be called: TRL passes {twice[0]} itself, so that no column may be named so"
        return Fault(said, f"rename the column {twice[0]}", whole=True)
    passed = [*GIVEN, *columns]
    unnamed = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_ONLY]
    if unnamed:
        said = f"takes {', '.join(unnamed)} by position only, where TRL passes everything by name"
        return Fault(said, "take the slash out of its parameters", whole=True)
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        name for name, each in parameters.items() if each.default is each.empty and each.kind not in rest
    ]
    if missing := [name for name in needed if name not in passed]:
        there = ", ".join(["prompt", *columns])
        said = (
            f"needs {', '.join(map(repr, missing))}, which is no column of the data; the columns are: {there}"
        )
        advice = "name columns that are there, give the parameter a default, or set it in RUN.yaml under args"
        return Fault(said, advice, whole=True)
    takes_rest = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    refused = [name for name in passed if name not in parameters]
    if refused and not takes_rest:
        said = f"doesn't take {', '.join(refused)}, which TRL passes: add **kwargs to its parameters"
        return Fault(said, "take completions, the columns it needs, and **kwargs", whole=True)
    return None


def short(text: str | None) -> str:
    """A text in quotes, on one line, cut after 60 characters."""
    return repr(_cut(text or ""))


def _cut(text: str) -> str:
    said = " ".join(text.split())
    return said if len(said) <= 60 else f"{said[:57]}..."


def as_rewards(value: Any, number: int) -> list[float | None] | str:
    """The rewards that TRL would make of what a function returned, or a sentence on why it can't."""
    if inspect.iscoroutine(value):
        value.close()
        return "returns a coroutine: make the function itself `async def`, for TRL to await it"
    if hasattr(value, "tolist"):  # arrays and tensors
        value = value.tolist()
    # TRL takes whatever it can iterate over; of these, texts, sets and the keys of a dict are no rewards.
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping | Set):
        return f"returns {_cut(repr(value))} for {number} completions, not a list of {number} numbers"
    value = list(value)
    if len(value) != number:
        rewards_said = "1 reward" if len(value) == 1 else f"{len(value)} rewards"
        return f"returns {rewards_said} for {number} completions"
    rewards: list[float | None] = []
    for each in value:
        if isinstance(each, str) or not (each is None or hasattr(each, "__float__")):
            return f"returns {_cut(repr(each))} among the rewards, which is not a number"
        try:
            rewards.append(None if each is None else float(each))
        except OverflowError:
            rewards.append(math.inf)
        except (TypeError, ValueError, RuntimeError):  # the last: a tensor of several numbers
            return f"returns {_cut(repr(each))} among the rewards, which is not a number"
    return rewards
