"""Memory of the host that this process may still take: what is free, and what its control groups leave of it.

A container's or a Slurm job's own limit isn't in what the system says is free; past it the kernel kills.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Files of a group's limit and use, and the line of memory.stat for what the kernel takes back when it must
# (https://docs.kernel.org/admin-guide/cgroup-v2.html, and cgroup-v1/memory.html).
_SECOND = ("memory.max", "memory.current", "inactive_file")
_FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_bytes(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """How many bytes there are; `groups` and `own` are where Linux tells of control groups."""
    import psutil

    return min([int(psutil.virtual_memory().available), *_left(groups, own)])


def _left(groups: Path, own: Path) -> Iterator[int]:
    """What each group around this process leaves, of those that have a limit."""
    for line in _text(own).splitlines():
        number, controllers, name = line.split(":", 2)
        if number == "0":
            root, files = groups, _SECOND
        elif "memory" in controllers.split(","):
            root, files = groups / "memory", _FIRST
        else:
            continue
        folder = root / name.lstrip("/")
        for each in (folder, *folder.parents):
            limit, used = (_text(each / file).strip() for file in files[:2])
            if limit.isdigit() and used.isdigit():
                yield max(0, int(limit) - int(used) + _reclaimable(each, files[2]))
            if each == root:
                break


def _reclaimable(group: Path, name: str) -> int:
    found = [
        line.split()[1] for line in _text(group / "memory.stat").splitlines() if line.startswith(f"{name} ")
    ]
    return int(found[0]) if found else 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no Linux, no such group, no right to look
        return ""
