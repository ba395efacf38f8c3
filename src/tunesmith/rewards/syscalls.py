"""The system calls that a program under test may not make, as a filter that Linux runs (seccomp).

Processes of one user reach each other: without a filter, tested code could signal the trainer, change its
limits, or leave a process behind. The numbers are those of Linux's unistd_64.h (x86_64) and
asm-generic/unistd.h (aarch64), read from 6.x headers on 2026-11-24.
"""

from __future__ import annotations

import struct

# Number on x86_64, number on aarch64; None where the architecture hasn't got it.
DENIED: dict[str, tuple[int | None, int | None]] = {
    # other programs and processes
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "kcmp": (312, 272),
    "setpgid": (109, 154), "setsid": (112, 157), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "sched_setparam": (142, 118),
    "sched_setaffinity": (203, 122), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "setrlimit": (160, None), "perf_event_open": (298, 241),
    # the network; a pair of connected sockets within the process stays possible
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    # ways around a filter or a limit: other call tables, memory that outlives or escapes the process
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "userfaultfd": (323, 282), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "personality": (135, 92),
    # what Landlock leaves open of other files: mode, owner, times, attributes
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    # the machine, for those who train as root
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "mknod": (133, None), "mknodat": (259, 33), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "syslog": (103, 116), "quotactl": (179, 60), "acct": (163, 89),
    "iopl": (172, None), "ioperm": (173, None), "sethostname": (170, 161), "setdomainname": (171, 162),
    "vhangup": (153, 58),
}  # fmt: skip
# Calls that are told apart by an argument: processes from threads, reading a limit from setting it, and the
# ways to have a signal sent to another process or to type into its terminal.
_CLONE, _PRLIMIT, _FCNTL, _IOCTL = (56, 220), (302, 261), (72, 25), (16, 29)
_CLONE_THREAD = 0x00010000
_FCNTL_COMMANDS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX
_IOCTL_COMMANDS = (0x5412, 0x8901, 0x8902)  # TIOCSTI, FIOSETOWN, SIOCSPGRP
# Newer calls than these haven't been looked at. C libraries do without, as on an older kernel.
_CLONE3, _FIRST_UNKNOWN = 435, 452
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
# Of struct seccomp_data: the number, the architecture, the lower half of the first argument (little-endian).
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000


def seccomp_filter(machine: str) -> bytes | None:
    """The filter, an array of `struct sock_filter`, for a `platform.machine()`; None for unknown ones."""
    if machine not in _ARCHITECTURES:
        return None
    index, architecture = _ARCHITECTURES[machine]

    def load(offset: int) -> bytes:
        return struct.pack("HBBI", _LOAD, 0, 0, offset)

    def when(test: int, value: int, result: int, *, negated: bool = False) -> bytes:
        """Two instructions: return `result` when the test holds, else go on."""
        jump = struct.pack("HBBI", test, 1 if negated else 0, 0 if negated else 1, value)
        return jump + struct.pack("HBBI", _RETURN, 0, 0, result)

    def only(call: tuple[int, int], body: bytes) -> bytes:
        """`body` for this call, after which the number is loaded anew."""
        body += load(_NUMBER)
        return struct.pack("HBBI", _EQUAL, 0, len(body) // 8, call[index]) + body

    def argument(position: int, *, upper: bool = False) -> bytes:
        return load(_ARGUMENTS + 8 * position + (4 if upper else 0))

    parts = [load(_ARCHITECTURE), when(_EQUAL, architecture, _KILL, negated=True), load(_NUMBER)]
    # The table of x86_64's 32-bit sibling begins there too.
    parts += [when(_EQUAL, _CLONE3, _ENOSYS), when(_AT_LEAST, _FIRST_UNKNOWN, _ENOSYS)]
    parts += [when(_EQUAL, n, _EPERM) for each in DENIED.values() if (n := each[index]) is not None]
    parts.append(only(_CLONE, argument(0) + when(_ANY_BIT, _CLONE_THREAD, _EPERM, negated=True)))
    given = [argument(2, upper=upper) + when(_EQUAL, 0, _EPERM, negated=True) for upper in (False, True)]
    parts.append(only(_PRLIMIT, b"".join(given)))
    for call, commands in ((_FCNTL, _FCNTL_COMMANDS), (_IOCTL, _IOCTL_COMMANDS)):
        parts.append(only(call, argument(1) + b"".join(when(_EQUAL, each, _EPERM) for each in commands)))
    parts.append(struct.pack("HBBI", _RETURN, 0, 0, _ALLOW))
    return b"".join(parts)
