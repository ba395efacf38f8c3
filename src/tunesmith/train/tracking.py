"""Tracking with one owner: transformers' own callbacks, each added once, that can fail without the run."""

from __future__ import annotations

import contextvars
import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from tunesmith.config.loading import nearest
from tunesmith.config.run_config import RunConfig
from tunesmith.errors import ConfigError, first_words

# How long a run that stops waits for Trackio, which would wait for half a minute.
_PATIENCE_S = 5.0
# In what Trackio says of rows that it keeps here because its server takes none.
_WAITING = (
    "could not be sent to the remote server",
    "could not create a remote client",
    "could not prepare Space",
)
_WAITS = "Trackio's server takes no rows: they are kept here, and sent with the next run of this project"


def wanted_trackers(config: RunConfig) -> list[str]:
    """The trackers of this run, each once; Trackio unless `trl.report_to` says otherwise.

    Raises:
        ConfigError: transformers knows no tracker of that name.
    """
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    named = config.trl.get("report_to", "trackio")
    names = [named] if isinstance(named, str) else list(named or [])
    if "all" in names:
        names = get_available_reporting_integrations()
    names = [name for name in dict.fromkeys(names) if name != "none"]
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            near = nearest(str(name), INTEGRATION_TO_CALLBACK)
            raise ConfigError(
                f"there is no tracker {name!r}",
                where="trl.report_to",
                fix=f"did you mean {near}?"
                if near
                else f"there are {', '.join(INTEGRATION_TO_CALLBACK)}, none",
            )
    return names


def tracker_callbacks(
    names: Sequence[str], on_failure: Callable[[str], None], *, goes_on: bool = False
) -> list[Any]:
    """A callback for each tracker; one that isn't installed, or can't start, is said and left out.

    Where a run `goes_on`, Trackio's local store isn't told again what it was told before.
    """
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    callbacks = []
    for name in names:
        try:
            callback = INTEGRATION_TO_CALLBACK[name]()
            if name == "trackio":
                callback.setup = _sending_what_waits(callback.setup)
                if goes_on:
                    callback.on_log = _unrepeated(callback.on_log)
            callbacks.append(tolerant(callback, name, on_failure))
        except Exception as error:  # whatever a tracker raises, training goes on (test_tracking.py)
            on_failure(f"not tracked by {name}: {first_words(error)}")
    return callbacks


def tolerant(callback: Any, name: str, on_failure: Callable[[str], None]) -> Any:
    """`callback` that tells its first failure and is silent after: a run is worth more than its curve."""
    failures: list[str] = []

    def guarded(hook: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(hook)
        def call(*args: Any, **kwargs: Any) -> Any:
            if failures:
                return None
            try:
                return hook(*args, **kwargs)
            except Exception as error:  # whatever a tracker raises, training goes on (test_tracking.py)
                failures.append(first_words(error))
                on_failure(f"{name} failed and is off for the rest of this run: {failures[0]}")
                return None

        return call

    for hook in (each for each in dir(callback) if each.startswith("on_")):
        setattr(callback, hook, guarded(getattr(callback, hook)))
    return callback


def _sending_what_waits(setup: Callable[..., Any]) -> Callable[..., Any]:
    """Trackio's `setup`, after which rows that earlier runs couldn't send go to a server of one's own too.

    Trackio 0.43 says that it does so, and does it for Spaces alone.
    """

    def call(args: Any, *more: Any, **keywords: Any) -> None:
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        setup(args, *more, **keywords)
        run = trackio.context_vars.current_run.get()
        if run is not None and SQLiteStorage.has_pending_data(args.project):
            run._has_local_buffer = True

    return call


def _unrepeated(log: Callable[..., Any]) -> Callable[..., Any]:
    """Trackio's `on_log`, which leaves out what is in its local store from before this process began.

    Steps after the last checkpoint are done again, with the same figures: each is one point of the curve.
    """
    from transformers.integrations.integration_utils import rewrite_logs

    told: dict[int, list[set[str]]] | None = None

    def on_log(args: Any, state: Any, control: Any, model: Any = None, logs: Any = None, **more: Any) -> Any:
        nonlocal told
        if told is None:
            told = _told(args.project, args.run_name)
        if any(names and names <= rewrite_logs(logs).keys() for names in told.get(state.global_step, ())):
            return None
        return log(args, state, control, model=model, logs=logs, **more)

    return on_log


def _told(project: str, run: str) -> dict[int, list[set[str]]]:
    """The names of the figures in each row of a run in Trackio's local store, by global step."""
    from trackio.sqlite_storage import SQLiteStorage

    told: dict[int, list[set[str]]] = {}
    for row in SQLiteStorage.get_logs(project, run):
        names = set(row) - {"step", "timestamp", "train/global_step"}
        told.setdefault(row.get("train/global_step", -1), []).append(names)
    return told


@contextmanager
def trackio_watched(on_failure: Callable[[str], None]) -> Iterator[None]:
    """Close Trackio's run when the inside ends, whatever ends it, and tell once of rows that it doesn't take.

    At the exit of the process it would close it itself, with a line about an upload that never happens.
    """
    with _losses_said(on_failure):
        try:
            yield
        except BaseException:
            _close(_PATIENCE_S)  # the machine may be about to go
            raise
        _close()


def _close(limit_s: float | None = None) -> None:
    trackio = sys.modules.get("trackio")
    if trackio is None or trackio.context_vars.current_run.get() is None:
        return

    def finish() -> None:
        with suppress(Exception):  # what a tracker can't keep is no reason to hide how the run ended
            trackio.finish()

    if limit_s is None:
        finish()
    else:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(finish,), daemon=True)
        thread.start()
        thread.join(limit_s)
    trackio.context_vars.current_run.set(None)


@contextmanager
def _losses_said(on_failure: Callable[[str], None]) -> Iterator[None]:
    """What is only a warning there: a store that can't be written, a server that doesn't take the rows."""
    shown = warnings.showwarning
    said: set[str] = set()

    def tell(kind: str, message: str) -> None:
        if kind not in said:
            said.add(kind)
            on_failure(message)

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        text = str(message)
        if any(each in text for each in _WAITING):
            tell("waiting", _WAITS)
        elif text.startswith("trackio") and ("failed" in text or "error" in text):
            lost = text.partition(". User code")[0]
            tell("lost", f"{lost}; training goes on, metrics.jsonl keeps every row")
        shown(message, *args, **kwargs)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown
