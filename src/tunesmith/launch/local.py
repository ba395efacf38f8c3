"""One command as several processes of this machine, one a GPU: started, watched and ended together.

Each runs the whole command, with the variables that PyTorch's own launcher would set. The first one has the
terminal and speaks for all; what the others print is kept for the case that one of them fails alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

# Set in every process that was started here: a run trusts no others to be watched.
LAUNCHED = "_TUNESMITH_LAUNCHED"
# When one has failed the others mostly fail of the same; those that wait for it are ended after this time.
PATIENCE_S = 15.0
# One that stopped in order waits for nobody, while the first still writes its checkpoint and sends it away.
STOPPED_PATIENCE_S = 600.0
_STOPPED = (4, 130)
LINES_TOLD = 12
_TICK_S = 0.05
# <sys/prctl.h>: the signal that a process gets when the one that started it dies.
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ended:
    """How a command of several processes ended.

    `code` is the exit code for all; `failed` is the rank of a process that failed before the first one did
    (or otherwise than it), and `said` the end of what it printed.
    """

    code: int
    failed: int | None = None
    said: str = ""


def was_launched() -> bool:
    """True in a process that `run_processes` started."""
    return os.environ.get(LAUNCHED) == "1"


def run_processes(command: Sequence[str], number: int) -> Ended:
    """Run `command` in so many processes and wait until all have ended.

    SIGINT and SIGTERM go on to each of them. They end with this process, whatever ends it (Linux).
    """
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        logs = [Path(folder) / f"rank-{rank}.log" for rank in range(number)]
        processes: list[subprocess.Popen[bytes]] = []
        with _passed_on(processes):
            port = _free_port()
            for rank in range(number):
                processes.append(_start(command, rank, _environment(rank, number, port), logs[rank]))
            failed, waited = _wait(processes)
        return _ended(processes, failed, waited, logs)


def _start(
    command: Sequence[str], rank: int, environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        speaks = rank == 0
        return subprocess.Popen(
            command,
            env=environment,
            stdin=None if speaks else subprocess.DEVNULL,
            stdout=None if speaks else subprocess.DEVNULL,
            stderr=None if speaks else file,
            # Out of the terminal's group: Ctrl-C comes to each of them once, from here.
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )


def _environment(rank: int, number: int, port: int) -> dict[str, str]:
    """As torch.distributed.run sets them; the cores are shared."""
    ours = {
        LAUNCHED: "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    threads = max(1, (os.cpu_count() or 1) // number)
    shared = {"OMP_NUM_THREADS": str(threads)}
    if sys.platform == "linux":  # a host's name need not resolve
        shared["GLOO_SOCKET_IFNAME"] = "lo"
    return {**shared, **os.environ, **ours}


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def _passed_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def receive(number: int, frame: FrameType | None) -> None:
        for each in processes:
            if each.poll() is None:
                each.send_signal(number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> tuple[int | None, bool]:
    """Wait until all have ended; the rank of the first that failed, and whether others had to be ended."""
    failed, first_works, since = None, True, time.monotonic()
    while None in [each.poll() for each in processes]:
        if first_works and processes[0].poll() is not None:
            first_works, since = False, time.monotonic()
        if failed is None and (failed := _first_failed(processes)) is not None:
            since = time.monotonic()
        # Where the first one is done without a fault, others hang while they end: gloo does so now and then.
        patience_s = PATIENCE_S if failed is None else _patience_s(processes[failed].returncode, first_works)
        if time.monotonic() - since > patience_s and not (failed is None and first_works):
            for each in processes:
                each.kill()
                each.wait()
            return failed, failed is not None
        time.sleep(_TICK_S)
    return (_first_failed(processes) if failed is None else failed), False


def _patience_s(code: int, first_works: bool) -> float:
    return STOPPED_PATIENCE_S if code in _STOPPED and first_works else PATIENCE_S


def _first_failed(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    return next((rank for rank, each in enumerate(processes) if each.returncode), None)


def _ended(
    processes: Sequence[subprocess.Popen[bytes]], failed: int | None, waited: bool, logs: Sequence[Path]
) -> Ended:
    codes = [each.returncode if each.returncode >= 0 else 128 - each.returncode for each in processes]
    if failed == 0 and processes[0].returncode < 0:  # a signal ended the one that tells
        return Ended(codes[0], 0)
    # Of a fault that all have, the first one tells.
    if not failed or (codes[0] == codes[failed] and not waited):
        return Ended(codes[0])
    said = logs[failed].read_text(encoding="utf-8", errors="replace").strip()
    return Ended(codes[failed], failed, "\n".join(said.splitlines()[-LINES_TOLD:]))
