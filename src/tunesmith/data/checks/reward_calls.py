"""Reward functions: found by name, and called without letting them hang, print or raise."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import importlib
import importlib.util
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tunesmith.errors import ConfigError

# A call that takes longer is taken for one that never comes back; the slowest honest ones ask a model.
TIME_LIMIT_S = 20.0

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
        raise _refusal(name, f"{attribute!r} of {source} is a {kind}, not a function", "name a function")
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
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123 - no path
        with contextlib.suppress(
            OSError, ValueError, AttributeError
        ):  # no such descriptor: then nothing can reach it
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
    """Call a reward as TRL does, on copies, in silence and for a limited time; it raises nothing."""
    call = Call()

    def run() -> None:
        started = time.perf_counter()
        try:
            value = function(**copy.deepcopy(arguments))
            call.value = asyncio.run(value) if _is_async(function) else value
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
    if thread.is_alive():
        sys.stdout, sys.stderr = _Muted(sys.stdout, thread), _Muted(sys.stderr, thread)  # type: ignore[assignment]
        return Call(hung=True, seconds=TIME_LIMIT_S)
    return call


def _is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None))))  # noqa: B004
