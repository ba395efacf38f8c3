"""One process at a time works in a run folder: a lock on `RUN/.lock` that the system drops with its holder.

It is the kernel's (flock; Windows has its own kind), so one whose holder was killed is free at once, and none
is ever stale. Disks shared over a network mostly honour it too, but not all do: a run that another machine is
recorded to work on is taken over only by one who says so.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tunesmith.errors import RunFolderError
from tunesmith.runs.folder import LOCK, RunFolder, unwritable


@contextmanager
def held(path: Path, rank: int = 0) -> Iterator[None]:
    """Inside, no other process works in the run folder `path`, which is made where there is none.

    Of several processes of one run the first (`rank` 0) holds it for all. A folder in which no run.json was
    written is gone again afterwards, when it was made here.

    Raises:
        RunFolderError: another process holds it, or the folder can't be written or locked.
    """
    if rank:
        yield
        return
    made = [each for each in (path, *path.parents) if not each.exists()]
    lock = FileLock(path / LOCK, timeout=0, thread_local=False)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise _taken(path) from None
    except (OSError, NotImplementedError) as error:
        _unmake(path, made)
        raise unwritable(path, error) from None
    try:
        yield
    finally:
        _unmake(path, made)  # before the release, or another process might lock a file that goes
        lock.release()


def refuse_living(run: RunFolder, *, take_over: bool = False) -> None:
    """Make sure that the process that run.json names as the run's is gone; to be asked once the lock is held.

    Raises:
        RunFolderError: it lives, or it is on another machine, where that can't be seen, and `take_over` isn't
            given.
    """
    if run.status() != "running":
        return
    process = run.record.get("process")
    host = process.get("host") if isinstance(process, dict) else None
    if host == socket.gethostname():
        raise RunFolderError(
            f"{run.path} is running: {_named(process)} works on it since {run.record.get('updated_at')}",
            where=str(run.path),
            fix=_WAIT.format(run.path),
        )
    if not take_over:
        raise RunFolderError(
            f"{run.path} is running on {host or 'a machine that it does not name'} as far as run.json tells, "
            f"and whether {_named(process)} still lives can't be seen from {socket.gethostname()}",
            where=str(run.path),
            fix="make sure that it is gone, and give the same command again with --take-over",
        )


_WAIT = "wait until it ends; tunesmith show {} tells how far it is"


def _taken(path: Path) -> RunFolderError:
    try:
        run = RunFolder.open(path)
    except RunFolderError:  # its holder has yet to write run.json
        said = "another process, which has just begun"
    else:
        if run.status() == "running":
            said = f"{_named(run.record.get('process'))} since {run.record.get('updated_at')}"
        else:  # the holder still reads data or model, and writes its number when it trains
            said = "another process, which gets ready to go on with it"
    return RunFolderError(f"{path} is held by {said}", where=str(path), fix=_WAIT.format(path))


def _named(process: Any) -> str:
    if not isinstance(process, dict):
        return "a process"
    return f"process {process.get('pid')} on {process.get('host')}"


def _unmake(path: Path, made: list[Path]) -> None:
    """Remove the folders that were made for a lock alone."""
    if not made or (path / "run.json").exists():
        return
    with suppress(OSError):
        (path / LOCK).unlink(missing_ok=True)
    for each in made:
        with suppress(OSError):  # not made, or not empty
            each.rmdir()
