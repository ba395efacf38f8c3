"""What a run really took, to stand beside its plan in run.json."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

import psutil

GIB = 2**30


def measure_run(rows: Iterable[Mapping[str, Any]], device: str) -> dict[str, float | None]:
    """Seconds of a step (the median of the logs) and since the process began, and GiB at their most.

    `rows` are those of metrics.jsonl. On a GPU memory is what torch handed out, on a CPU the process's own.
    """
    logged = [float(row["step_s"]) for row in rows if row.get("step_s") is not None]
    # The first steps load kernels and capture passes: a run with no other logs says nothing of a usual one.
    usual = logged[1:]
    return {
        "step_s": round(median(usual), 5) if usual else None,
        "duration_s": round(time.time() - psutil.Process().create_time(), 1),
        "peak_memory_gib": round(_peak_gib(device), 3),
    }


def _peak_gib(device: str) -> float:
    if device == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated() / GIB)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, kilobytes on Linux (getrusage(2)).
    return most / GIB if sys.platform == "darwin" else most * 1024 / GIB
