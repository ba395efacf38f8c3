"""Work that waits for the Hub, which may never answer: given up after a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
# A login, a listing, a small file.
QUESTION_S = 60.0
# What an upload may take: this, and a second for each of so many bytes (a slow line).
UPLOAD_S = 900.0
SLOWEST_BYTES_PER_S = 1_000_000


def within(limit_s: float, work: Callable[[], Result]) -> Result:
    """What `work` gives, when it is done in time; it runs in a thread that no exit of the process waits for.

    huggingface_hub sets no limit of its own for most requests, and sleeps for as long as a Hub asks it to.

    Raises:
        TimeoutError: it isn't done in time.
    """
    done: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # raised where it is waited for
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="hub")
    thread.start()
    thread.join(limit_s)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"no end after {limit_s:.0f} s")
    return done[0]


def upload_limit_s(num_bytes: int) -> float:
    """How long an upload of so many bytes may take, in seconds."""
    return UPLOAD_S + num_bytes / SLOWEST_BYTES_PER_S
