"""How far a reader of data is: rows a second and time left, as a bar, as lines, or as JSON lines."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from tunesmith.cli.output import Output
from tunesmith.cli.progress import duration

if TYPE_CHECKING:
    from tunesmith.data.batches import Batch

# Without a terminal, a line every so many seconds.
LINE_EVERY_S = 10.0


class DataProgress:
    """Shows phases and the rows read in them; use it as a context manager."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._rows = self._bytes = 0
        self._began = self._said = time.monotonic()

    def __enter__(self) -> DataProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def phase(self, name: str) -> None:
        """A new phase begins."""
        self.close()
        self._rows = self._bytes = 0
        self._began = self._said = time.monotonic()
        if not self._out.is_live:
            if self._out.as_json:
                self._out.event({"event": "phase", "name": name})
            return
        self._bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"), console=self._out.console, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._bar.start()
        self._task = self._bar.add_task(name, total=None, note="")

    def advance(self, batch: Batch, total_bytes: int | None) -> None:
        """A batch was read, of data that are `total_bytes` in all where that is known."""
        self._rows += batch.num_rows
        self._bytes += batch.num_bytes
        now = time.monotonic()
        rate = self._rows / max(now - self._began, 1e-6)
        share = min(1.0, self._bytes / total_bytes) if total_bytes else None
        left_s = (now - self._began) * (1 - share) / share if share else None
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                completed=share,
                total=None if share is None else 1.0,
                note=self._note(rate, left_s),
            )
        elif now - self._said >= LINE_EVERY_S:
            self._said = now
            if self._out.as_json:
                self._out.event(
                    {"event": "rows", "num_rows": self._rows, "rows_per_s": round(rate), "left_s": left_s}
                )
            else:
                self._out.say(self._note(rate, left_s))

    def _note(self, rate: float, left_s: float | None) -> str:
        parts = [f"{self._rows:,} rows", f"{rate:,.0f} rows/s"]
        return "  ".join([*parts, *([f"{duration(left_s)} left"] if left_s else [])])

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None
