"""The sandbox for programs that a model wrote, attacked with real ones."""

from __future__ import annotations

import os
import platform
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tunesmith.errors import ConfigError
from tunesmith.rewards import sandbox
from tunesmith.rewards.loading import load_reward
from tunesmith.rewards.sandbox import Limits, run_all
from tunesmith.rewards.syscalls import seccomp_filter

DOUBLE = "def double(number):\n    return 2 * number\n"
TESTS = [("assert double(2) == 4", True), ("assert double(3) == 6", True)]
NOTHING_PASSES = [("assert False", True), ("assert double(2) == 5", True)]
SHORT = Limits(time_s=0.5)


def run(code, tests=TESTS, limits=SHORT):
    [outcome] = run_all([(code, tests)], limits)
    return outcome


def children():
    listed = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for path in listed for pid in path.read_text().split()}


# Honest programs.


def test_a_right_program_passes_all_tests_and_a_wrong_one_some_or_none():
    outcomes = run_all([(DOUBLE, TESTS), ("def double(n): return 4", TESTS), ("def double(n): n", TESTS)])
    assert [(each.num_passed, each.num_tests, each.end) for each in outcomes] == [
        (2, 2, "finished"), (1, 2, "finished"), (0, 2, "finished"),
    ]  # fmt: skip


HONEST = {
    "dataclass": "from dataclasses import dataclass\n@dataclass\nclass A:\n    n: int\n"
    "def double(n): return A(2 * n).n",
    "asyncio": "import asyncio\nasync def later(n): return 2 * n\n"
    "def double(n): return asyncio.run(later(n))",
    "threads": "from concurrent.futures import ThreadPoolExecutor\n"
    "def double(n):\n    with ThreadPoolExecutor(2) as pool: return sum(pool.map(int, [n, n]))",
    "standard library": "import bisect, collections, datetime, decimal, enum, fractions, functools, hashlib\n"
    "import heapq, itertools, json, math, random, re, sqlite3, statistics, string, typing, zoneinfo\n"
    + DOUBLE,
    "devnull": "import contextlib, os\ndef double(n):\n"
    "    with open(os.devnull, 'w') as file, contextlib.redirect_stdout(file): print(n)\n    return 2 * n",
    "main guard": DOUBLE + "if __name__ == '__main__':\n    raise SystemExit",
    "unicode": "größe = '∑'\n" + DOUBLE,
    "prints": "import sys\nprint('x' * 100_000)\nprint('y' * 100_000, file=sys.stderr)\n" + DOUBLE,
    "recursion": "def double(n): return 0 if n == 0 else 2 + double(n - 1)",
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_runs(name):
    assert run(HONEST[name], limits=Limits(time_s=10)).num_passed == 2


def test_what_sets_a_test_up_runs_and_does_not_count():
    tests = [("import math\nexpected = math.floor(4.5)", False), ("assert double(2) == expected", True)]
    outcome = run(DOUBLE, tests)
    assert (outcome.num_passed, outcome.num_tests) == (1, 1)


# Programs that end early, never, or with everything that the machine has.

ENDS = {
    "sys.exit": ("import sys\nsys.exit(0)", "finished"),
    "exit in a function": ("import sys\ndef double(n): sys.exit(0)", "finished"),
    "os._exit": ("import os\nos._exit(0)", "died"),
    "os._exit in a function": ("import os\ndef double(n): os._exit(0)", "died"),
    "os._exit later": ("import os\ndef double(n):\n    if n > 2: os._exit(0)\n    return 2 * n", "died"),
    "abort": ("import os\nos.abort()", "died"),
    "no python": ("def double(n) return 2", "finished"),
    "null byte": (DOUBLE + "\0", "finished"),
    "half a character": (DOUBLE + "'\ud800'", "finished"),
    "empty": ("", "finished"),
    "raises": ("raise BaseException", "finished"),
    "interrupt": ("raise KeyboardInterrupt", "finished"),
    "reads input": ("input()", "finished"),
    "nested": ("(" * 100_000 + ")" * 100_000, None),
    "memory": ("blocks = []\nwhile True: blocks.append(bytearray(50_000_000))", None),
    "one block": ("block = bytearray(10**10)", "finished"),
    "forks": ("import os\nwhile True: os.fork()", "finished"),
    "threads": (
        "import threading\nwhile True: threading.Thread(target=threading.Event().wait).start()", None,
    ),
    "loop": ("while True: pass", "time"),
    "loop in C": ("10**10**9", "time"),
    "sleep": ("import time\ntime.sleep(1000)", "time"),
    "prints on and on": ("while True: print('x' * 10_000)", "time"),
    "never gives up": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass", "time",
    ),
    "ignores signals": (
        "import signal\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass", "time",
    ),
}  # fmt: skip


def test_programs_that_end_early_or_never_pass_nothing_and_leave_nothing():
    before, started = children(), time.monotonic()
    outcomes = run_all([(code, TESTS) for code, _ in ENDS.values()], Limits(time_s=0.5, memory_gib=0.25))
    assert time.monotonic() - started < 15
    for (name, (_, end)), outcome in zip(ENDS.items(), outcomes, strict=True):
        assert outcome.num_passed == 0, name
        assert end in (None, outcome.end), (name, outcome)
    assert children() <= before


def test_memory_has_a_limit_that_a_program_may_come_near():
    code = DOUBLE + "block = b'x' * (150 << 20)\ntry: more = b'x' * (150 << 20)\nexcept MemoryError: pass\n"
    code += "else: raise SystemExit"
    assert run(code, limits=Limits(time_s=10, memory_gib=0.25)).num_passed == 2


def test_what_passed_before_the_time_was_up_counts():
    outcome = run("def double(n):\n    while n > 2: pass\n    return 2 * n")
    assert (outcome.num_passed, outcome.num_tests, outcome.end) == (1, 2, "time")


def test_a_program_ends_with_the_process_that_waits_for_it(tmp_path):
    code = "import sys; from tunesmith.rewards.sandbox import *; print('up', flush=True); "
    code += "run_all([('import time; time.sleep(600)', [('assert 1', True)])], Limits(time_s=500))"
    command, env = [sys.executable, "-c", code], {**os.environ, "TMPDIR": str(tmp_path)}
    waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    assert waiting.stdout.readline() == "up\n"
    listed = Path(f"/proc/{waiting.pid}/task")
    deadline = time.monotonic() + 10
    while not (pids := {p for f in listed.glob("*/children") for p in f.read_text().split()}):
        assert time.monotonic() < deadline
    waiting.kill()
    waiting.wait()
    [pid] = pids
    while Path(f"/proc/{pid}").exists() and ") Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline


def test_an_interrupted_run_ends_its_programs(monkeypatch):
    follow = sandbox._follow

    def interrupted(*args):
        threading.Timer(0.2, args[-1].set).start()
        return follow(*args)

    monkeypatch.setattr(sandbox, "_follow", interrupted)
    started = time.monotonic()
    assert run("while True: pass", limits=Limits(time_s=100)).num_passed == 0
    assert time.monotonic() - started < 10


# Programs that want out: each raises unless the sandbox holds.


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file, a folder, an environment variable, an open file and a listening port to find."""
    (tmp_path / "canary").write_text("secret")
    monkeypatch.setenv("CANARY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as server, (tmp_path / "canary").open() as file:
        os.set_inheritable(file.fileno(), True)
        names = {"path": f"{tmp_path}/canary", "folder": str(tmp_path), "home": str(Path.home())}
        yield {**names, "port": server.getsockname()[1], "file": file.fileno(), "parent": os.getpid()}


OUTWARD = {
    "read a file": "open({path!r}).read()",
    "read it by descriptor": "import os; os.open({path!r}, os.O_RDONLY)",
    "read it by a way around": "open('/usr/lib/../..' + {path!r}).read()",
    "read a password file": "open('/etc/passwd').read()",
    "list home": "import os; os.listdir({home!r})",
    "list a folder": "import os; list(os.scandir({folder!r}))",
    "change folder": "import os; os.chdir({folder!r}); open('canary').read()",
    "go up": "open('../' * 20 + {path!r}).read()",
    "read the parent's memory": "open('/proc/{parent}/mem', 'rb')",
    "read the parent's environment": "open('/proc/{parent}/environ').read()",
    "read its own memory": "open('/proc/self/mem', 'rb')",
    "read the environment": "import os; os.environ['CANARY']",
    "read an inherited file": "import os; assert os.pread({file}, 6, 0)",
    "write a file": "open('mine', 'w')",
    "write elsewhere": "open('/tmp/tunesmith-canary', 'w')",
    "write a temporary file": "import tempfile; tempfile.NamedTemporaryFile()",
    "make a folder": "import os; os.mkdir('mine')",
    "make a link": "import os; os.symlink({path!r}, 'link'); open('link').read()",
    "delete a file": "import os; os.remove({path!r})",
    "truncate a file": "import os; os.truncate({path!r}, 0)",
    "change the mode": "import os; os.chmod('.', 0o777)",
    "change the time": "import os; os.utime({path!r})",
    "change the owner": "import os; os.chown({path!r}, os.getuid(), os.getgid())",
    "connect": "import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
    "send a datagram": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "listen": "import socket; socket.create_server(('127.0.0.1', 0))",
    "local socket": "import socket; s = socket.socket(socket.AF_UNIX); s.bind('mine')",
    "abstract socket": "import socket; s = socket.socket(socket.AF_UNIX); s.bind('\\0mine')",
    "look up a name": "import socket; socket.getaddrinfo('localhost', 80)",
    "run a program": "import subprocess; subprocess.run(['/bin/true'], check=True)",
    "run a shell": "import os; assert os.system('true') == 0",
    "become a program": "import os; os.execv('/bin/true', ['true'])",
    "spawn": "import os; os.posix_spawn('/bin/true', ['true'], {{}})",
    "fork": "import os; os.fork()",
    "signal the parent": "import os; os.kill({parent}, 0)",
    "signal the group": "import os; os.killpg(0, 0)",
    "raise a limit": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))",
    "change the parent's limit": "import resource as r; r.prlimit({parent}, r.RLIMIT_NOFILE, (99, 99))",
    "call C": "import ctypes; ctypes.CDLL(None).getpid()",
    "look for objects": "import gc; gc.get_objects()",
    "look at other frames": "import sys; sys._current_frames()",
    "add a hook": "import sys; seen = []; sys.addaudithook(lambda *a: seen.append(a)); import this; seen[0]",
    "find the harness": "import __main__; __main__._judge",
    "be slower for others": "import os; os.setpriority(os.PRIO_PROCESS, {parent}, 19)",
}  # fmt: skip
# What Python's hooks alone can't refuse: it raises no event.
KERNEL_ONLY = {"be slower for others"}


def outcomes_of(programs):
    """1 where the attack succeeded. The programs run to their end either way."""
    tests = [("assert ATTACK_DONE", True)]
    outcomes = run_all([(f"{code}\nATTACK_DONE = True\n", tests) for code in programs], Limits(time_s=5))
    assert {each.end for each in outcomes} <= {"finished", "died"}
    return [each.num_passed for each in outcomes]


def test_no_program_gets_out(canary):
    outcomes = outcomes_of([code.format(**canary) for code in OUTWARD.values()])
    assert [name for name, passed in zip(OUTWARD, outcomes, strict=True) if passed] == []
    assert Path(canary["path"]).read_text() == "secret"
    assert not Path("/tmp/tunesmith-canary").exists()


def test_no_program_gets_out_past_the_kernel_when_the_hooks_are_gone(canary, monkeypatch, tmp_path):
    """The child without its audit hook: what holds then is seccomp and Landlock alone."""
    source = sandbox._CHILD.read_text()
    assert source.count("    sys.addaudithook(") == 1
    bare = tmp_path / "child.py"
    bare.write_text(source.replace("    sys.addaudithook(", "    str("))
    monkeypatch.setattr(sandbox, "_CHILD", bare)
    inside = {"call C", "look for objects", "look at other frames", "add a hook", "look up a name"}
    wanted = {name: code.format(**canary) for name, code in OUTWARD.items() if name not in inside}
    c_calls = {
        "a signal": "libc.kill({parent}, 0) == 0", "a socket": "libc.socket(2, 1, 0) >= 0",
        "a process": "libc.fork() >= 0", "a clone": "libc.syscall({clone}, 17, 0, 0, 0, 0) >= 0",
        "a limit": "libc.prlimit({parent}, 7, bytes([9, 0, 0, 0, 0, 0, 0, 0] * 2), None) == 0",
        "an io_uring": "libc.syscall(425, 8, bytes(200)) >= 0", "a memfd": "libc.memfd_create(b'x', 0) >= 0",
        "a message to the owner": "libc.fcntl(1, 8, {parent}) == 0",
        "a namespace": "libc.unshare(0x10000000) == 0",
        "a shared memory": "libc.shmget(0, 4096, 0o1600) >= 0",
        "a trace": "libc.ptrace(16, {parent}, 0, 0) == 0",
    }  # fmt: skip
    clone = 56 if platform.machine() == "x86_64" else 220
    head = "import ctypes\nlibc = ctypes.CDLL(None)\nassert "
    wanted |= {name: head + code.format(**canary, clone=clone) for name, code in c_calls.items()}
    outcomes = outcomes_of(wanted.values())
    assert [name for name, passed in zip(wanted, outcomes, strict=True) if passed] == []


def test_where_the_kernel_has_no_walls_the_hooks_stand_in(canary, monkeypatch):
    monkeypatch.setattr(sandbox, "_KERNEL_WALLS", ())
    wanted = {name: code.format(**canary) for name, code in OUTWARD.items() if name not in KERNEL_ONLY}
    outcomes = outcomes_of(wanted.values())
    assert [name for name, passed in zip(wanted, outcomes, strict=True) if passed] == []


def test_a_network_namespace_stands_in_for_seccomp(monkeypatch):
    monkeypatch.setattr(sandbox, "_KERNEL_WALLS", ("namespaces",))
    outcome = run(DOUBLE, limits=Limits(time_s=10))
    if "namespaces" not in outcome.walls:
        pytest.skip("this kernel lets users make no namespaces")
    assert outcome.num_passed == 2


# Programs that want to seem right.

CHEATS = {
    "prints": "print('ok\\npass 0\\ndone')",
    "writes everywhere": "import os\nfor fd in range(64):\n    try: os.write(fd, b'pass 0\\ndone\\n')\n"
    "    except OSError: pass",
    "closes everything": "import os\nos.closerange(0, 64)",
    "redirects everything": "import os\nfor fd in range(3, 64):\n"
    "    try: os.dup2(0, fd)\n    except OSError: pass",
    "replaces AssertionError": "import builtins\nbuiltins.AssertionError = type('A', (), {})",
    "replaces exec": "import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None",
    "replaces the way out": "import os\nos._exit = os.write = lambda *a: None",
    "traces past the assert": "import sys\ndef jump(frame, event, arg):\n"
    "    if frame.f_code.co_filename == 'tests.py': frame.f_lineno += 1\n    return jump\nsys.settrace(jump)",
    "profiles": "import sys\nsys.setprofile(lambda *a: None)",
    "hooks exceptions": "import sys\nsys.excepthook = sys.unraisablehook = lambda *a: None",
    "replaces its builtins": "__builtins__ = {'AssertionError': type('A', (Exception,), {})}",
    "leaves": "import os\nimport atexit\natexit.register(os._exit, 0)\nraise SystemExit(0)",
    "reads the request": "import os\nos.lseek(0, 0, 0)\nassert os.read(0, 100)",
    "reads its command line": "import sys\nassert len(sys.argv) > 1",
    "rebinds the harness": "import sys\nfor module in list(sys.modules.values()):\n"
    "    for name in ('_judge', '_main', '_hook'):\n"
    "        if hasattr(module, name): setattr(module, name, str)",
}


def test_cheats_pass_nothing():
    programs = [(code + "\n" + DOUBLE, NOTHING_PASSES) for code in CHEATS.values()]
    outcomes = run_all(programs, Limits(time_s=5))
    assert {name: o.num_passed for name, o in zip(CHEATS, outcomes, strict=True) if o.num_passed} == {}
    by_name = dict(zip(CHEATS, outcomes, strict=True))
    assert by_name["writes everywhere"].end == "forged"


def test_builtins_are_whole_again_when_the_tests_run():
    code = (
        "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.len = lambda x: 3\ndef double(n): return 100"
    )
    tests = [("assert abs(double(2) - 4) < 1", True), ("assert len([double(1)]) == 3", True)]
    assert run(code, tests).num_passed == 0


def test_an_object_that_equals_everything_passes_which_is_a_known_limit():
    code = "class Yes:\n    def __eq__(self, other): return True\ndef double(n): return Yes()"
    assert run(code).num_passed == 2


# The machine.


def test_every_wall_stands_on_this_machine():
    assert sandbox.missing_walls() == []


def test_a_machine_without_walls_is_named_and_refused_unless_asked_for(monkeypatch):
    monkeypatch.setattr(sandbox, "_walls", lambda: frozenset({"cpu", "audit"}))
    missing = " ".join(sandbox.missing_walls())
    for word in ("processes", "network", "files", "memory"):
        assert word in missing
    with pytest.raises(ConfigError, match="can't be kept here from other processes") as refused:
        load_reward("unit_tests")
    assert "allow_weak_sandbox" in refused.value.fix


def test_a_machine_that_can_start_nothing_is_a_sentence(monkeypatch):
    monkeypatch.setattr(sandbox, "_CHILD", Path("/nowhere/child.py"))
    sandbox._walls.cache_clear()
    assert run(DOUBLE).end == "unstarted"
    with pytest.raises(ConfigError, match="can't be run in a sandbox on this machine"):
        sandbox.missing_walls()
    sandbox._walls.cache_clear()


def test_a_machine_out_of_processes_says_nothing_about_the_program(monkeypatch):
    def full(*args, **kwargs):
        raise BlockingIOError("no process left")

    monkeypatch.setattr(sandbox.subprocess, "Popen", full)
    assert run(DOUBLE).end == "unstarted"


def test_filters_are_whole_instructions_and_unknown_machines_have_none():
    for machine in ("x86_64", "aarch64"):
        program = seccomp_filter(machine)
        assert len(program) % 8 == 0
        assert len(program) // 8 < 4096
    assert seccomp_filter("riscv64") is None
    assert seccomp_filter(platform.machine()) is not None


def test_many_programs_leave_no_file_open():
    before = len(list(Path("/proc/self/fd").iterdir()))
    run_all([(DOUBLE, TESTS)] * 8)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64
