"""What earlier runs on this machine say of the estimate: how much longer their steps took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from tunesmith.plan.planner import Learned
from tunesmith.runs.folder import list_runs

# A machine may have changed since: the newest runs tell.
_MOST = 20


def learned_here(device_name: str) -> Learned | None:
    """What the runs below ./runs say of the device of that name; None where none was finished on it."""
    return learned_from((run.record for run in list_runs()), device_name)


def learned_from(records: Iterable[Mapping[str, Any]], device_name: str) -> Learned | None:
    """The median of measured over estimated seconds of a step, of run.json contents, newest first."""
    found: list[float] = []
    for record in records:
        estimated = ((record.get("plan") or {}).get("step_s") or {}).get("expected")
        measured = (record.get("actual") or {}).get("step_s")
        here = (record.get("machine") or {}).get("device_name") == device_name
        if here and estimated and measured and len(found) < _MOST:
            found.append(measured / estimated)
    if not found:
        return None
    factor = median(found)
    return Learned(factor, median(abs(each / factor - 1) for each in found), len(found))
