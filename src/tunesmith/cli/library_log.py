"""What TRL, transformers, datasets and Trackio print goes to the run's log.txt, not over our lines."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path


class LibraryLog(io.TextIOBase):
    """A stream that keeps what is written until it is given a file, and then writes there."""

    def __init__(self) -> None:
        self._held: list[str] = []
        self._path: Path | None = None

    def attach(self, path: Path) -> None:
        """From now on append to `path`, beginning with what was held back."""
        self._path = path
        held, self._held = self._held, []
        self.write("".join(held))

    def write(self, text: str) -> int:
        if self._path is None:
            self._held.append(text)
        elif self._path.parent.is_dir():
            # A log that can't be written (a full disk) is no reason to stop what it tells about.
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        return len(text)

    def writable(self) -> bool:
        return True


@contextlib.contextmanager
def libraries_logged() -> Iterator[LibraryLog]:
    """Redirect stdout, stderr, warnings and logging of the libraries while inside."""
    # Set before the libraries are imported, which is when they read them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    log = LibraryLog()
    handler = logging.StreamHandler(log)
    root = logging.getLogger()
    root.addHandler(handler)
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log), warnings.catch_warnings():
        warnings.simplefilter("default")
        try:
            yield log
        finally:
            root.removeHandler(handler)
