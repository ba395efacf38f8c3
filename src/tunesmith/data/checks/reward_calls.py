"""Reward functions: found by name, and called without letting them hang, print or raise."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import importlib
import importlib.util
import inspect
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tunesmith.errors import ConfigError

# A call that takes longer is taken for one that never comes back; the slowest honest ones ask a model.
TIME_LIMIT_S = 20.0
# What TRL 1.16 hands to a reward function besides the columns (GRPOTrainer._calculate_rewards), and the
# columns that it keeps back.
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
KEPT_BACK = ("prompt", "completion", "completion_ids")


# --- loading --------------------------------------------------------------------------------------------


def load_reward(name: str) -> Callable[..., Any]:
    """The function that `my_rewards.py:accuracy` or `package.module:accuracy` names.

    Raises:
        ConfigError: there is no such file, module or function, it isn't callable, or importing it fails.
    """
    source, _, attribute = name.rpartition(":")
    if not source or not attribute:
        raise _refusal(
            name, f"{name!r} names no function", "write FILE.py:FUNCTION or package.module:FUNCTION"
        )
    with _silenced():
        module = _module_of_file(name, source) if _is_path(source) else _module(name, source)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            there = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
            fix = f"it has {', '.join(there[:8])}" if there else "define it at the top level of the file"
            raise _refusal(name, f"{source} has no {attribute!r}", fix)
        found = getattr(found, part)
    if inspect.isclass(found):
        fix = f"add a line such as `reward = {attribute}()` and name that"
        raise _refusal(name, f"{attribute!r} of {source} is a class, not a function", fix)
    if not callable(found):
        kind = type(found).__name__
        raise _refusal(name, f"{attribute!r} of {source} is of type {kind}, no function", "name a function")
    return found  # type: ignore[no-any-return]


def _refusal(name: str, message: str, fix: str, where: str | None = None) -> ConfigError:
    return ConfigError(message, where=where or f"--reward {name}", fix=fix)


def _is_path(source: str) -> bool:
    return source.endswith(".py") or "/" in source or os.sep in source or Path(source).is_file()


def _module_of_file(name: str, source: str) -> ModuleType:
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        raise _refusal(name, f"there is no file {source}", "check the path", str(Path.cwd()))
    if path.suffix != ".py":
        raise _refusal(name, f"{source} is no Python file", "name a file that ends in .py", str(path))
    key = f"tunesmith_reward_{path.stem}"
    loaded = sys.modules.get(key)
    if loaded is not None and loaded.__file__ == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(key, path)
    if spec is None or spec.loader is None:
        raise _refusal(name, f"{source} is no Python file", "name a file that ends in .py", str(path))
    module = importlib.util.module_from_spec(spec)
    _see(path.parent)
    sys.modules[key] = module  # dataclasses and pickle look a module up by its name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[key]
        raise _import_failed(name, source, error) from error
    return module


def _module(name: str, source: str) -> ModuleType:
    _see(Path.cwd())
    try:
        return importlib.import_module(source)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and (source == missing or source.startswith(f"{missing}.")):
            fix = "install it, run from the folder that holds it, or name the file: FILE.py:FUNCTION"
            raise _refusal(name, f"there is no module {source}", fix, str(Path.cwd())) from error
        raise _import_failed(name, source, error) from error


def _see(folder: Path) -> None:
    """Let imports find what lies beside a reward; last, so that it hides nothing that is installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _import_failed(name: str, source: str, error: BaseException) -> ConfigError:
    line = error.lineno if isinstance(error, SyntaxError) else None
    traceback = error.__traceback__
    while traceback:  # the innermost line of the file itself is where its writer looks first
        if Path(traceback.tb_frame.f_code.co_filename).name == Path(source).name:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    place = f"{source}:{line}" if line else f"--reward {name}"
    return _refusal(name, f"{source} can't be imported: {first_line(error)}", "mend it, and try again", place)


def first_line(error: BaseException) -> str:
    """An exception as a report names it: its kind and the first line of what it says."""
    said = str(error).strip().split("\n")[0][:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


# --- calling --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep what is printed, by Python or by a child process, away from the user's stdout."""
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        # Where there is no such stream or descriptor, nothing can reach it.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
            kept = os.dup(1)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 1)
            os.dup2(nowhere.fileno(), 1)
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield


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
            value = asyncio.run(value) if _is_async(function) else value
            call.value = list(value) if isinstance(value, Iterator) else value
        except BaseException as error:  # whatever it raises, SystemExit too, is what is to be reported
            call.error = error
        call.seconds = time.perf_counter() - started

    thread = threading.Thread(target=run, daemon=True, name="reward")
    with _silenced():
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


def _is_async(function: Callable[..., Any]) -> bool:
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


def signature_fault(parameters: dict[str, inspect.Parameter], columns: list[str]) -> str | None:
    """Why TRL can't call it: TRL passes everything by keyword, the columns too."""
    if twice := [name for name in columns if name in GIVEN[:2]]:
        return f"can't be called: TRL passes {twice[0]} itself, so that no column may be named so"
    passed = [*GIVEN, *columns]
    unnamed = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_ONLY]
    if unnamed:
        return f"takes {', '.join(unnamed)} by position only, where TRL passes everything by name"
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        name for name, each in parameters.items() if each.default is each.empty and each.kind not in rest
    ]
    if missing := [name for name in needed if name not in passed]:
        there = ", ".join(["prompt", *columns])
        return (
            f"needs {', '.join(map(repr, missing))}, which is no column of the data; the columns are: {there}"
        )
    takes_rest = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    refused = [name for name in passed if name not in parameters]
    if refused and not takes_rest:
        return f"doesn't take {', '.join(refused)}, which TRL passes: add **kwargs to its parameters"
    return None


def short(text: str | None) -> str:
    """A text in quotes, on one line, cut after 60 characters."""
    said = " ".join((text or "").split())
    return repr(said if len(said) <= 60 else f"{said[:57]}...")


def as_rewards(value: Any, number: int) -> list[float | None] | str:
    """The rewards that TRL would make of what a function returned, or a sentence on why it can't."""
    if inspect.iscoroutine(value):
        value.close()
        return "returns a coroutine: make the function itself `async def`, for TRL to await it"
    if hasattr(value, "tolist"):  # arrays and tensors
        value = value.tolist()
    # TRL takes whatever it can iterate over; of these, texts, sets and the keys of a dict are no rewards.
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping | Set):
        return f"returns {short(repr(value))} for {number} completions, not a list of {number} numbers"
    value = list(value)
    if len(value) != number:
        return f"returns {len(value)} rewards for {number} completions"
    rewards: list[float | None] = []
    for each in value:
        if isinstance(each, str) or not (each is None or hasattr(each, "__float__")):
            return f"returns {short(repr(each))} among the rewards, which is not a number"
        try:
            rewards.append(None if each is None else float(each))
        except OverflowError:
            rewards.append(math.inf)
        except (TypeError, ValueError, RuntimeError):  # the last: a tensor of several numbers
            return f"returns {short(repr(each))} among the rewards, which is not a number"
    return rewards
