"""Reward functions found by name: those of the library, and a user's own in a file or module."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from tunesmith.config.run_config import RewardSource
from tunesmith.errors import ConfigError, first_line
from tunesmith.rewards.library import make, names

# What TRL 1.16 hands to a reward function besides the columns (GRPOTrainer._calculate_rewards).
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
# So many names of a file are listed where the one that was asked for isn't there.
_NAMED = 8
# Code in these folders is not what the writer of a reward mends.
_OURS = Path(__file__).parent.parent
_LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def load(source: RewardSource) -> Callable[..., Any]:
    """The reward function of a run's configuration, its arguments bound to it.

    Raises:
        ConfigError: as `load_reward`, or an argument is unknown, missing or of a wrong kind.
        MissingPackageError: it needs a package that isn't installed.
    """
    name, args = source.function, source.args
    if name in names():
        return make(name, args)
    function = load_reward(name)
    if not args:
        return function
    _refuse_arguments(name, function, args)
    bound = functools.partial(function, **args)
    bound.__name__ = getattr(function, "__name__", name.rpartition(":")[2])  # type: ignore[attr-defined]
    return bound


def load_reward(name: str) -> Callable[..., Any]:
    """The function that `numeric_answer`, `my_rewards.py:accuracy` or `package.module:accuracy` names.

    Raises:
        ConfigError: there is no such reward, file, module or function, it isn't callable, importing it fails,
            or it is one of the library that needs arguments.
        MissingPackageError: it needs a package that isn't installed.
    """
    if name in names():
        return make(name, {})
    source, colon, attribute = name.rpartition(":")
    if not colon and not _is_path(name):
        raise _unknown(name)
    if not source or not attribute:
        raise _refusal(
            name, f"{name!r} names no function", "write FILE.py:FUNCTION or package.module:FUNCTION"
        )
    with silenced():
        module = _module_of_file(name, source) if _is_path(source) else _module(name, source)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise _not_there(name, source, attribute, module)
        found = getattr(found, part)
    if inspect.isclass(found):
        fix = f"add a line such as `reward = {attribute}()` and name that"
        raise _refusal(name, f"{attribute!r} of {source} is a class, not a function", fix)
    if not callable(found):
        kind = type(found).__name__
        raise _refusal(name, f"{attribute!r} of {source} is of type {kind}, no function", "name a function")
    return found  # type: ignore[no-any-return]


def _refuse_arguments(name: str, function: Callable[..., Any], args: dict[str, Any]) -> None:
    """Make sure that a user's function takes the arguments.

    Raises:
        ConfigError: it doesn't, or TRL passes one of that name itself.
    """
    if taken := [each for each in args if each in GIVEN]:
        raise _refusal(
            name, f"args can't set {taken[0]}: TRL passes it itself", "name the argument otherwise"
        )
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have none: the call will show
        return
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return
    own = [each.name for each in parameters if each.kind is not each.POSITIONAL_ONLY]
    if unknown := [each for each in args if each not in own]:
        there = ", ".join(each for each in own if each not in GIVEN) or "none besides what TRL passes"
        raise _refusal(name, f"{name} has no argument {unknown[0]!r}", f"it takes {there}")


def _refusal(name: str, message: str, fix: str, where: str | None = None) -> ConfigError:
    return ConfigError(message, where=where or f"reward {name}", fix=fix)


def _unknown(name: str) -> ConfigError:
    near = difflib.get_close_matches(name.lower(), names(), n=1, cutoff=0.5)
    asked = f"; did you mean {near[0]}?" if near else ""
    fix = f"the library has {', '.join(names())}; your own: FILE.py:FUNCTION or package.module:FUNCTION"
    return _refusal(name, f"there is no reward {name!r} in the library{asked}", fix)


def _not_there(name: str, source: str, attribute: str, module: ModuleType) -> ConfigError:
    there = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
    near = difflib.get_close_matches(attribute, there, n=1)
    asked = f"; did you mean {near[0]}?" if near else ""
    more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
    fix = f"it has {', '.join(there[:_NAMED])}{more}" if there else "define it at the top level of the file"
    return _refusal(name, f"{source} has no {attribute!r}{asked}", fix)


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
    place = f"{source}:{line}" if line else f"reward {name}"
    return _refusal(name, f"{source} can't be imported: {first_line(error)}", "mend it, and try again", place)


def raised_at(error: BaseException) -> str:
    """What a reward raised, and the line of its own file: `KeyError: 'colour' (my_rewards.py:33)`.

    Its file is that of the outermost frame that is neither Tunesmith's nor a library's, and the line the
    innermost one in it. Without such a frame, as for the library's rewards, no line is named.
    """
    frames = []
    traceback = error.__traceback__
    while traceback:
        frames.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    own = next((name for name, _ in frames if _is_users(Path(name))), None)
    if own is None:
        return first_line(error)
    path, line = Path(own), [line for name, line in frames if name == own][-1]
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{first_line(error)} ({shown}:{line})"


def _is_users(path: Path) -> bool:
    if not path.is_file() or path.is_relative_to(_OURS):
        return False
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not any(path.is_relative_to(folder) for folder in _LIBRARIES)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
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
