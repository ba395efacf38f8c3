"""Tracking with one owner: transformers' own Trackio callback, added once, that can fail without the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunesmith.errors import MissingPackageError


def trackio_callback(on_failure: Callable[[str], None]) -> Any:
    """Transformers' TrackioCallback that reports its first failure and then stays silent.

    Raises:
        MissingPackageError: trackio is not installed.
    """
    from transformers.integrations import TrackioCallback, is_trackio_available

    if not is_trackio_available():
        raise MissingPackageError("trackio is not installed", fix="pip install trackio")

    class TolerantTrackioCallback(TrackioCallback):
        """Training is worth more than its curve: a tracker that fails is named once and dropped."""

        failed = False

        def _guarded(self, hook: str, *args: Any, **kwargs: Any) -> None:
            if self.failed:
                return
            try:
                getattr(super(), hook)(*args, **kwargs)
            except Exception as error:  # whatever a tracker raises, training goes on (test_tracking.py)
                self.failed = True
                on_failure(
                    f"Trackio failed and is off for the rest of this run: {error or type(error).__name__}"
                )

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self._guarded("on_train_begin", *args, **kwargs)

        def on_log(self, *args: Any, **kwargs: Any) -> None:
            self._guarded("on_log", *args, **kwargs)

        def on_save(self, *args: Any, **kwargs: Any) -> None:
            self._guarded("on_save", *args, **kwargs)

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self._guarded("on_train_end", *args, **kwargs)

    return TolerantTrackioCallback()
