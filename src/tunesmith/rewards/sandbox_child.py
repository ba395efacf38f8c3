"""The inside of the sandbox: walls first, then one program and its tests. Started; what else needs its walls
(data/template_child.py) imports it in a process of its own.

It runs as `python -I -S` and imports little, so that starting it takes milliseconds.
"""

# pathlib takes as long to import as all that is imported here.
# ruff: noqa: PTH100, PTH109, PTH112, PTH118

from __future__ import annotations

import builtins
import ctypes
import marshal
import os
import resource
import struct
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Events of Python's audit hooks (https://docs.python.org/3/library/audit_events.html) that tested code never
# needs: other processes, the network, the interpreter's own memory, and all that changes the disk.
_REFUSED = (
    "os.fork", "os.exec", "os.spawn", "os.posix_spawn", "os.system", "os.kill", "subprocess.", "pty.",
    "signal.pthread_kill", "resource.setrlimit", "resource.prlimit", "socket.", "ctypes.", "gc.get_",
    "sys._current_", "sys.addaudithook", "cpython.", "syslog.", "sqlite3.connect", "shutil.",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown",
    "os.lockf", "os.truncate", "os.utime", "os.setxattr", "os.removexattr", "os.chflags", "os.lchmod",
)  # fmt: skip
_READ = ("open", "os.listdir", "os.scandir", "os.chdir", "os.listxattr", "os.getxattr", "os.walk", "os.fwalk")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache",
    "/etc/localtime", "/nix/store",
)  # fmt: skip


def _main() -> None:
    report, parent = int(sys.argv[1]), int(sys.argv[2])
    request = b""
    while chunk := os.read(0, 1 << 20):
        request += chunk
    code, tests, nonce, walls = marshal.loads(request)
    # The file with the request holds the tests and the secret: from here on nothing leads to it.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    standing = build_walls(walls, parent)
    del request, walls, parent
    os.write(report, nonce + b" ready " + b",".join(standing) + b"\n")
    _judge(code, tests, report, nonce)


# --- walls ----------------------------------------------------------------------------------------------


def build_walls(walls: dict[str, Any], parent: int) -> list[bytes]:
    """Put up the walls that the parent asks for and this machine has; their names."""
    standing = []
    os.umask(0o077)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.alarm(walls["alarm_s"])  # should the parent go without a word, and the system not tell
    for name, value in walls["limits"].items():
        if hasattr(resource, name):
            try:
                resource.setrlimit(getattr(resource, name), (value, value))
                standing.append(name.removeprefix("RLIMIT_").lower().encode())
            except (ValueError, OSError):  # macOS has limits that it doesn't let one set
                continue
    readable = [*sys.path, os.path.join(sys.base_exec_prefix, "lib"), *_SYSTEM, os.getcwd()]
    if sys.platform == "linux":
        libc.syscall.restype = ctypes.c_long
        libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL: to die with the thread that waits for it
        if os.getppid() != parent:
            os._exit(1)
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: none to read its memory, no core
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, without which the next two are refused
        if walls["landlock"] and _landlock(libc, readable):
            standing.append(b"landlock")
        if walls["seccomp"] and _seccomp(libc, walls["seccomp"]):
            standing.append(b"seccomp")
        # CLONE_NEWUSER | CLONE_NEWNET: a network of its own with nothing in it.
        elif walls["namespaces"] and libc.unshare(0x10000000 | 0x40000000) == 0:
            standing.append(b"namespaces")
    if b"seccomp" not in standing:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    sys.addaudithook(_hook([os.path.abspath(path) for path in readable]))
    return [*standing, b"audit"]


def _landlock(libc: Any, readable: list[str]) -> bool:
    """Let nothing on disk be changed or run, and only the interpreter's files be read (Linux 5.13)."""
    create, add, restrict = 444, 445, 446
    version = libc.syscall(create, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    # linux/landlock.h: 13 rights over files at first, then REFER, TRUNCATE and, with the fifth, IOCTL_DEV.
    files = (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1
    tcp, scopes = (0b11 if version >= 4 else 0), (0b11 if version >= 6 else 0)
    wanted = struct.pack("QQQ", files, tcp, scopes)[: 8 * (1 + (version >= 4) + (version >= 6))]
    rules = libc.syscall(create, wanted, ctypes.c_size_t(len(wanted)), ctypes.c_uint32(0))
    if rules < 0:
        return False
    read_file, read_folder, write_file = 1 << 2, 1 << 3, 1 << 1
    for path in (*readable, *_DEVICES):
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rights = read_file | (read_folder if os.path.isdir(path) else 0)
        rights |= write_file if path == "/dev/null" else 0
        rule = struct.pack("=Qi", rights, descriptor)
        libc.syscall(add, ctypes.c_int(rules), ctypes.c_int(1), rule, ctypes.c_uint32(0))
        os.close(descriptor)
    done = bool(libc.syscall(restrict, ctypes.c_int(rules), ctypes.c_uint32(0)) == 0)
    os.close(rules)
    return done


def _seccomp(libc: Any, program: bytes) -> bool:
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
    return bool(libc.prctl(22, 2, head, 0, 0) == 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _hook(roots: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """What Python asks before it does something: the wall where the kernel has none, and a clear word."""
    folders = tuple(os.path.join(root, "") for root in roots)
    whole = (*roots, *_DEVICES)
    refused, read, failure, text = _REFUSED, _READ, PermissionError, str
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def within(path: object) -> bool:
        if type(path) is bytes:
            path = path.decode("utf-8", "surrogateescape")
        if path is None or type(path) is int:
            return True
        if type(path) is not text or ".." in text.split(path, "/"):
            return False
        return text.startswith(path, folders) or path in whole or not text.startswith(path, "/")

    def ask(event: str, given: tuple[Any, ...]) -> None:
        if event in read:
            changes = event == "open" and type(given[2]) is int and given[2] & writes
            if not within(given[0]) or (changes and given[0] != "/dev/null"):
                raise failure(f"the sandbox refuses {event}")
        # A pair of connected sockets of the process, as asyncio has one, is no network.
        elif event.startswith(refused) and not (event == "socket.__new__" and given[1] == 1):
            raise failure(f"the sandbox refuses {event}")

    return ask


# --- judging ---------------------------------------------------------------------------------------------


def _judge(code: str, tests: list[tuple[str, bool]], report: int, nonce: bytes) -> None:
    """Run the program, then each test in its namespace; tell the parent of each that passes, and of the end.

    What it needs is held in local names: the program can rebind every name that it can spell.
    """
    write, leave, translate, run = os.write, os._exit, compile, exec
    trace, profile, scope, base_error = sys.settrace, sys.setprofile, vars(builtins), BaseException
    pristine = dict(scope)
    module = types.ModuleType("answer")
    sys.modules["answer"] = sys.modules["__main__"] = module  # nothing leads to this module any more
    sys.argv = ["answer.py"]
    names = vars(module)
    names["__builtins__"] = builtins
    loaded = True
    try:
        run(translate(code, "answer.py", "exec"), names)
    except base_error:  # whatever ends it, SystemExit too: a program that doesn't load passes nothing
        loaded = False
    for index, (source, counts) in enumerate(tests):
        if not loaded:
            break
        # A trace function could jump over an assert, and other builtins could make it hold.
        trace(None)
        profile(None)
        scope.clear()
        scope.update(pristine)
        names["__builtins__"] = dict(pristine)
        try:
            run(translate(source, "tests.py", "exec"), names)
        except base_error:  # whatever it raises, the test hasn't passed
            continue
        if counts:
            write(report, b"%s pass %d\n" % (nonce, index))
    write(report, nonce + b" done\n")
    leave(0)


if __name__ == "__main__":
    _main()
