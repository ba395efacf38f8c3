"""Checkpoints written beside the training, one at a time, in a thread of their own."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from tunesmith.runs import checkpoints
from tunesmith.runs.folder import RunFolder
from tunesmith.train.host_copies import HostCopies


class SendsCheckpoints(Protocol):
    """Whoever sends checkpoints away while a run trains; it never makes the run wait."""

    # The longest that one took, in seconds; 0 before the first.
    longest_s: float

    def kept(self, checkpoint: Path, step: int, best: int | None) -> None:
        """A checkpoint was written; it may be gone once this returns."""


class Keeper:
    """Writes the checkpoints of `run`, of which it keeps `limit` and the best, and tells `sender` of each."""

    def __init__(self, run: RunFolder, limit: int, sender: SendsCheckpoints | None = None) -> None:
        self._run = run
        self._sender = sender
        self._limit = limit
        self._host = HostCopies()
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None
        # The longest that one took, in seconds; None before the first.
        self.longest_s: float | None = None

    @property
    def longest_sending_s(self) -> float:
        """The longest that sending a checkpoint away took, in seconds."""
        return self._sender.longest_s if self._sender else 0.0

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
        self._host.release()
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

    def make_room(self, tensors: Sequence[Any]) -> None:
        """Begin to make room for copies of what will be kept."""
        self._host.make_room(tensors)

    def copied(self, *parts: dict[str, Any]) -> list[dict[str, Any]]:
        """Copies on the CPU of the tensors in each part, which later steps don't change.

        Those of the checkpoint before are gone then.
        """
        self.wait()
        tensors = {id(tensor): tensor for part in parts for tensor in part.values()}
        copies = dict(zip(tensors, self._host.copies(list(tensors.values())), strict=True))
        return [{name: copies[id(tensor)] for name, tensor in part.items()} for part in parts]

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
            written = checkpoints.commit(temporary, step)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if self._sender is not None:
            self._sender.kept(written, step, best)
        checkpoints.rotate(self.folder, self._limit, [] if best is None else [best])
        self.longest_s = max(self.longest_s or 0.0, time.monotonic() - began)
