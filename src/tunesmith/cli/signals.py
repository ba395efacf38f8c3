"""SIGTERM raises as Ctrl-C does, so that every verb ends with a sentence and an exit code."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tunesmith.errors import RunStopped, TunesmithError

EXIT_INTERRUPTED = 130


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def ended_by(error: BaseException, what: str = "", fix: str | None = None) -> TunesmithError:
    """The sentence for an end by Ctrl-C or SIGTERM; `what` was done meanwhile, as the sentence goes on."""
    if _is_termination(error):
        ended = TunesmithError(f"SIGTERM received{what}", fix=fix)
        ended.exit_code, ended.code = RunStopped.exit_code, RunStopped.code
    else:
        ended = TunesmithError(f"interrupted{what}", fix=fix)
        ended.exit_code, ended.code = EXIT_INTERRUPTED, "interrupted"
    return ended


@contextmanager
def raising(*, remembered: bool = False) -> Iterator[None]:
    """Inside, SIGTERM raises Terminated and SIGINT KeyboardInterrupt, in this process and the main thread.

    Where `remembered` they raise once more at the end: libraries swallow what is raised in their import.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[type[KeyboardInterrupt]] = []
    own = os.getpid()

    def hear(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:  # a process that was forked off, and is ended by this one
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        heard.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
        raise heard[-1]

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
        if remembered and heard:
            raise heard[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_termination(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, Terminated):
            return True
        error = error.__cause__
    return False
