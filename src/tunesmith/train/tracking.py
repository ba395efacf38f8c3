"""Tracking with one owner: transformers' own callbacks, each added once, that can fail without the run."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from tunesmith.config.loading import nearest
from tunesmith.config.run_config import RunConfig
from tunesmith.errors import ConfigError


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


def tracker_callbacks(names: Sequence[str], on_failure: Callable[[str], None]) -> list[Any]:
    """A callback for each tracker; one that isn't installed, or can't start, is said and left out."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    callbacks = []
    for name in names:
        try:
            callbacks.append(tolerant(INTEGRATION_TO_CALLBACK[name](), name, on_failure))
        except Exception as error:  # whatever a tracker raises, training goes on (test_tracking.py)
            on_failure(f"not tracked by {name}: {_first_line(error)}")
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
                failures.append(_first_line(error))
                on_failure(f"{name} failed and is off for the rest of this run: {failures[0]}")
                return None

        return call

    for hook in (each for each in dir(callback) if each.startswith("on_")):
        setattr(callback, hook, guarded(getattr(callback, hook)))
    return callback


@contextmanager
def losses_said(on_failure: Callable[[str], None]) -> Iterator[None]:
    """While inside, tell once when Trackio loses rows: a store it can't write is only a warning there."""
    shown = warnings.showwarning
    said: list[str] = []

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        text = str(message)
        if not said and text.startswith("trackio") and ("failed" in text or "error" in text):
            said.append(text)
            on_failure(f"{text.partition('. User code')[0]}; training goes on, metrics.jsonl keeps every row")
        shown(message, *args, **kwargs)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


@contextmanager
def trackio_closed() -> Iterator[None]:
    """Close Trackio's run when the inside ends, whatever ends it.

    At the exit of the process it would do so itself, with a line about an upload that never happens.
    """
    try:
        yield
    finally:
        trackio = sys.modules.get("trackio")
        if trackio is not None and trackio.context_vars.current_run.get() is not None:
            with suppress(Exception):  # what a tracker can't keep is no reason to hide how the run ended
                trackio.finish()


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
