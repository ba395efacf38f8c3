"""Runs programs that a model wrote, with their tests, each in a process that can reach and keep nothing.

Contained, on Linux with seccomp and Landlock (5.13, 2021, and later): a program can read no files but those
of Python's standard library (and packages installed inside of its folder) and the system's shared libraries;
it can write and run none. It has no network, starts no process, signals none, sees no environment variable,
inherits no open file, and ends with its time, its memory or the trainer, whichever ends first.
`missing_walls` names what another machine lacks; there, Python's audit hooks stand in, which a program that
sets out to get around them will.

Not contained: whether a file exists, the machine's load, bugs of the kernel. And within its process a program
can cheat its tests: an object whose `__eq__` is always true passes `assert f() == 3`, so does a function of
the standard library that was replaced, or the expected value, read from the caller's frame. What it can't do
is make a test pass by printing, leaving early or guessing: each pass is told through a pipe of its own with a
secret that only code walking the interpreter's frames comes by.
"""

from __future__ import annotations

import contextlib
import functools
import marshal
import math
import os
import platform
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith.errors import ConfigError
from tunesmith.rewards.syscalls import seccomp_filter

_CHILD = Path(__file__).with_name("sandbox_child.py")
# Python starts in some 10 ms; a machine that is busy, or reads it over a network, takes longer.
_START_S = 30.0
_GIB = 1 << 30
# The walls of the kernel that a run asks for.
_KERNEL_WALLS = ("landlock", "seccomp", "namespaces")

# A test's source, and whether it counts: what sets a test up runs too, and doesn't count.
Test = tuple[str, bool]


@dataclass(frozen=True)
class Limits:
    """What a program may use: seconds for all of its tests together, and GiB of address space."""

    time_s: float = 5.0
    memory_gib: float = 0.5


@dataclass(frozen=True)
class Outcome:
    """How many of the tests that count passed, and how the program ended.

    `time`: it was stopped at its limit, and what had passed counts. `died`: it left or crashed before the
    last test, so that nothing counts. `forged`: it wrote to the pipe of the results, so that nothing counts.
    `unstarted`: the machine couldn't start it, which says nothing about it.
    """

    num_passed: int
    num_tests: int
    end: Literal["finished", "time", "died", "forged", "unstarted"]
    walls: frozenset[str] = frozenset()


def run_all(
    programs: Sequence[tuple[str, Sequence[Test]]],
    limits: Limits = Limits(),
    num_parallel: int | None = None,
) -> list[Outcome]:
    """The outcome of each program (code and tests), as many at a time as there are cores for this rank.

    It comes back within the time limit of each, with no process left, whatever the programs do.
    """
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    cores = (os.cpu_count() or 1) // (int(ranks) if ranks.isdecimal() and int(ranks) else 1)
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="tunesmith-sandbox-") as folder:
        pool = ThreadPoolExecutor(min(num_parallel or max(1, cores), max(1, len(programs))))
        try:
            started = [pool.submit(_run, code, tests, limits, folder, stop) for code, tests in programs]
            return [each.result() for each in started]
        finally:
            stop.set()  # after Ctrl-C: those that run are ended, the others don't start
            pool.shutdown(cancel_futures=True)


def missing_walls() -> list[str]:
    """What this machine can't keep from a program, in words; empty where every wall stands.

    Raises:
        ConfigError: programs can't be run here at all.
    """
    standing = _walls()
    lacking = []
    if "seccomp" not in standing:
        lacking.append("other processes (no seccomp)")
        if "namespaces" not in standing:
            lacking.append("the network (no seccomp, no network namespace)")
    if "landlock" not in standing:
        lacking.append("reading the user's files (no Landlock)")
    if "as" not in standing:
        lacking.append("the machine's memory (no RLIMIT_AS)")
    return lacking


@functools.lru_cache(maxsize=1)
def _walls() -> frozenset[str]:
    trial = "import collections, json, math, re\ndef double(number):\n    return 2 * number\n"
    if os.name == "posix":
        [outcome] = run_all([(trial, [("assert double(2) == 4", True)])], Limits(time_s=30.0))
        if outcome.num_passed:
            return outcome.walls
    raise ConfigError(
        "programs can't be run in a sandbox on this machine",
        where="reward unit_tests",
        fix="train on Linux or macOS, or leave the reward out",
    )


# --- one program -----------------------------------------------------------------------------------------


def _run(code: str, tests: Sequence[Test], limits: Limits, folder: str, stop: threading.Event) -> Outcome:
    num_tests = sum(counts for _, counts in tests)
    nonce = secrets.token_hex(16).encode()
    reading, writing = os.pipe()
    try:
        with tempfile.TemporaryFile() as request:
            request.write(marshal.dumps((code, list(tests), nonce, walls_for(limits))))
            request.seek(0)
            try:
                process = _start(request.fileno(), writing, folder)
            except OSError:  # no process or memory is left on the machine
                return Outcome(0, num_tests, "unstarted")
            finally:
                os.close(writing)
            try:
                return _follow(reading, nonce, num_tests, limits, stop)
            finally:
                _end(process)
    finally:
        os.close(reading)


def walls_for(limits: Limits) -> dict[str, object]:
    """What `sandbox_child.build_walls` shall put up for a program with these limits."""
    machine = platform.machine()
    return {
        "limits": {
            "RLIMIT_CPU": math.ceil(limits.time_s) + 1,
            "RLIMIT_AS": int(limits.memory_gib * _GIB),
            "RLIMIT_FSIZE": 0,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        },
        "alarm_s": math.ceil(limits.time_s) + 2,
        "landlock": "landlock" in _KERNEL_WALLS,
        "seccomp": seccomp_filter(machine) if "seccomp" in _KERNEL_WALLS else None,
        "namespaces": "namespaces" in _KERNEL_WALLS,
    }


def _start(request: int, report: int, folder: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_CHILD), str(report), str(os.getpid())]
    return subprocess.Popen(
        command,
        stdin=request,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(report,),
        cwd=folder,
        env={},
        start_new_session=True,
    )


def _follow(report: int, nonce: bytes, num_tests: int, limits: Limits, stop: threading.Event) -> Outcome:
    """Read what the child tells until it is done, gone, or out of time."""
    poller = select.poll()
    poller.register(report, select.POLLIN)
    deadline = time.monotonic() + _START_S
    walls: frozenset[str] | None = None
    passed = 0
    buffer = b""
    while not stop.is_set():
        left = deadline - time.monotonic()
        if left <= 0:
            break
        if not poller.poll(min(left, 0.5) * 1000 + 1):
            continue
        chunk = os.read(report, 4096)
        if not chunk:
            return Outcome(0, num_tests, "died" if walls is not None else "unstarted", walls or frozenset())
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            said = line.split(b" ")
            if said[0] != nonce:
                return Outcome(0, num_tests, "forged", walls or frozenset())
            if said[1] == b"ready":
                walls = frozenset(said[2].decode().split(","))
                deadline = time.monotonic() + limits.time_s
            elif said[1] == b"pass":
                passed += 1
            else:
                return Outcome(min(passed, num_tests), num_tests, "finished", walls or frozenset())
        if len(buffer) > 4096:
            return Outcome(0, num_tests, "forged", walls or frozenset())
    if walls is None:
        return Outcome(0, num_tests, "unstarted")
    return Outcome(min(passed, num_tests), num_tests, "time", walls)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all of its group, and have it buried."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # A process that the kernel holds up dies later; waiting for it would hold up the training.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
