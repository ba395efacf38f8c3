"""What every verb shares: data to stdout, messages to stderr, `--json`, and errors as sentences."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape

from tunesmith.cli.signals import ended_by
from tunesmith.errors import RunStopped, TunesmithError

SCHEMA = "tunesmith/1"
EXIT_INTERNAL = 70

JsonFlag = Annotated[
    bool,
    typer.Option("--json", help="One JSON document on stdout at the end; progress as JSON lines on stderr."),
]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


class _Stream:
    """A stream whose terminal may be hung up: that is told as a pipe that nobody reads any more."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._readers_gone():
            return int(self._stream.write(text))

    def flush(self) -> None:
        with self._readers_gone():
            self._stream.flush()

    @contextlib.contextmanager
    def _readers_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):
                raise
            # What is still buffered would fail once more when the interpreter ends, and spoil the exit code.
            with contextlib.suppress(OSError), Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())
            raise BrokenPipeError(errno.EPIPE, "nobody reads this any more") from None


class _Terminal(Console):
    """A console whose reader may go away: what is being done goes on without it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Output:
    """Where a verb writes. With `--json` messages become JSON lines on stderr."""

    def __init__(self, command: str, as_json: bool) -> None:
        self.command = command
        self.as_json = as_json
        # The streams are kept now: while libraries work, sys.stdout and sys.stderr point into the log.
        self._stdout: Any = _Stream(sys.stdout)
        self.console = _Terminal(file=cast("IO[str]", _Stream(sys.stderr)), highlight=False, soft_wrap=True)
        self._document: dict[str, Any] | None = None

    @property
    def is_live(self) -> bool:
        """True when a person watches a terminal, so that a moving bar makes sense."""
        return self.console.is_terminal and not self.as_json

    def say(self, text: str = "", *, style: str | None = None) -> None:
        """A message to the person, on stderr."""
        if self.as_json:
            if text.strip():
                self.event({"event": "message", "message": text})
        else:
            self.console.print(escape(text), style=style)

    def render(self, renderable: Any) -> None:
        """A rich table or panel for the person, on stderr; left out with `--json`."""
        if not self.as_json:
            self.console.print(renderable)

    def event(self, row: dict[str, Any]) -> None:
        """A line of progress for a program, on stderr."""
        with contextlib.suppress(BrokenPipeError):
            self.console.file.write(json.dumps(row) + "\n")
            self.console.file.flush()

    def data(self, text: str) -> None:
        """The result for a pipe, on stdout; left out with `--json`."""
        if not self.as_json:
            with contextlib.suppress(BrokenPipeError):
                print(text, file=self._stdout, flush=True)

    def styled(self, markup: str) -> None:
        """A line of the result with rich's markup, on stdout; left out with `--json`."""
        if not self.as_json:
            _Terminal(file=self._stdout, highlight=False, soft_wrap=True).print(markup)

    @property
    def has_colours(self) -> bool:
        """True when stdout is a terminal that shows colours."""
        return _Terminal(file=self._stdout).color_system is not None

    @property
    def width(self) -> int:
        """Characters in a line of stdout."""
        return _Terminal(file=self._stdout).width

    def styled_text(self, text: Any) -> None:
        """A rich Text of the result, on stdout; left out with `--json`."""
        if not self.as_json:
            _Terminal(file=self._stdout, highlight=False, soft_wrap=True).print(text)

    def table(self, table: Any) -> None:
        """A table that is the result, on stdout; left out with `--json`."""
        if not self.as_json:
            _Terminal(file=self._stdout, highlight=False).print(table)

    def document(self, status: str = "done", **keys: Any) -> None:
        """The one JSON document of this command."""
        self._document = {"schema": SCHEMA, "command": self.command, "status": status, **keys}

    def close(self) -> None:
        """Write the document, when one was asked for."""
        if self.as_json and self._document is not None:
            with contextlib.suppress(BrokenPipeError):
                print(json.dumps(self._document, default=str), file=self._stdout, flush=True)

    def error(self, error: TunesmithError, **keys: Any) -> None:
        """An error as a person, or a program, reads it; `keys` stand in the document beside it."""
        _mask_secrets(error)
        status = {4: "stopped", 130: "stopped", 3: "refused", 5: "pending"}.get(error.exit_code, "error")
        if self.as_json:
            self.document(status, **keys, error=error.as_dict())
            return
        is_mild = status in ("stopped", "pending")
        title, style = (status, "bold yellow") if is_mild else ("error", "bold red")
        resumable = isinstance(error, RunStopped)
        self.console.print(f"[{style}]{title}:[/] {escape(error.message)}")
        if error.where:
            self.console.print(f"  where: {escape(error.where)}")
        if error.fix:
            label = "resume with" if resumable else "next"
            self.console.print(f"  {label}: {escape(error.fix)}")


def _mask_secrets(error: TunesmithError) -> None:
    try:
        from tunesmith.publish.redaction import without_secrets

        error.message = without_secrets(error.message)
        error.where, error.fix = (each and without_secrets(each) for each in (error.where, error.fix))
    except Exception as failed:  # half an installation; what can't be masked isn't shown (test_cli.py)
        error.message = f"{error.code}; what it says can't be shown ({type(failed).__name__})"
        error.where, error.fix = None, "tunesmith doctor tells what is missing"


@contextlib.contextmanager
def verb(command: str, as_json: bool, debug: bool) -> Iterator[Output]:
    """Run the body of a verb; whatever it raises becomes a sentence and an exit code."""
    out = Output(command, as_json)
    debug = debug or os.environ.get("TUNESMITH_DEBUG", "") not in ("", "0")
    code = 0
    try:
        yield out
    except TunesmithError as error:
        if debug:
            traceback.print_exc()
        out.error(error)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort) as error:
        ended = ended_by(error)
        out.error(ended)
        code = ended.exit_code
    except typer.Exit:  # a verb's own exit code, such as 1 for findings
        out.close()
        raise
    except Exception as error:  # the last resort: a bug of ours, reported as one (test_cli.py)
        if debug:
            traceback.print_exc()
        out.error(internal_error(error))
        code = EXIT_INTERNAL
    out.close()
    if code:
        raise typer.Exit(code)


def internal_error(error: Exception) -> TunesmithError:
    """What a person reads about an error that nobody foresaw."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    wrapped = TunesmithError(
        f"internal error, a bug of Tunesmith: {type(error).__name__}: {error}",
        where=f"{frame.filename}:{frame.lineno}",
        fix="run it again with --debug and report what it prints",
    )
    wrapped.exit_code, wrapped.code = EXIT_INTERNAL, "internal"
    return wrapped
