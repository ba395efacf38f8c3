"""CPU time of `tunesmith --help` (median of 15), beside a bare Python: python benchmarks/startup.py"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

from record import append, conditions, wait_for_idle

REPEATS = 15


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a command, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure both, in turn."""
    wait_for_idle()
    row = conditions()
    commands = {
        "help_s": [sys.executable, "-m", "tunesmith", "--help"],
        "bare_python_s": [sys.executable, "-c", "pass"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(REPEATS):
        for name, command in commands.items():
            times[name].append(cpu_seconds(command))
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    append("startup", {**row, **medians, "repeats": REPEATS})


if __name__ == "__main__":
    main()
