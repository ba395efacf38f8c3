"""Checkpoints written beside the training, one at a time, in a thread of their own."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from tunesmith.runs import checkpoints
from tunesmith.runs.folder import RunFolder


class Keeper:
    """Writes the checkpoints of `run`, of which it keeps `limit` and the best."""

    def __init__(self, run: RunFolder, limit: int) -> None:
        self._run = run
        self._limit = limit
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None
        # The longest that one took, in seconds; None before the first.
        self.longest_s: float | None = None

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self._run.checkpoints_path

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()

    def wait(self) -> None:
        """Return when the last checkpoint is written; what it failed of is raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def check(self) -> None:
        """Raise what the last checkpoint failed of, where that is known by now."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def has(self, step: int) -> bool:
        """Whether the checkpoint of `step` is there, once the last one is written."""
        self.wait()
        return (self.folder / f"checkpoint-{step}").is_dir()

    def keep(self, step: int, num_bytes: int, best: int | None, write: Callable[[Path], None]) -> None:
        """Let `write` fill the checkpoint of `step`, and remove those that are too many then.

        Raises:
            OSError: the disk has no room for `num_bytes`, or the last checkpoint couldn't be written.
        """
        self.wait()
        self.folder.mkdir(parents=True, exist_ok=True)
        if num_bytes > shutil.disk_usage(self.folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        self._writing = self._thread.submit(self._write, step, best, write)

    def _write(self, step: int, best: int | None, write: Callable[[Path], None]) -> None:
        began = time.monotonic()
        temporary = checkpoints.begin(self.folder, step)
        try:
            write(temporary)
            checkpoints.commit(temporary, step)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        checkpoints.rotate(self.folder, self._limit, [] if best is None else [best])
        self.longest_s = max(self.longest_s or 0.0, time.monotonic() - began)
