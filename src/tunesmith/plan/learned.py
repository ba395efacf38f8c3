"""What earlier runs on this machine say of the estimate: how much longer their steps took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any, NamedTuple

from tunesmith.plan.calibration import constant
from tunesmith.plan.planner import Learned
from tunesmith.runs.folder import list_runs

# A machine may have changed since: the newest runs tell.
_MOST = 20
# A run of fewer steps says how long kernels take to load.
_FEWEST_STEPS = 10
# Models of up to so many times the numbers, or so few, are alike.
_ALIKE = 3.0
# Fewer runs don't say how far they lie apart.
_FEWEST_RUNS = 3


class Like(NamedTuple):
    """The run that is to be planned."""

    device_name: str
    num_devices: int
    method: str
    tuning: str
    num_params: int


def learned_here(run: Like) -> Learned | None:
    """What the runs below ./runs say of one that is like them; None where none is."""
    return learned_from((each.record for each in list_runs()), run)


def learned_from(records: Iterable[Mapping[str, Any]], run: Like) -> Learned | None:
    """The median of measured over estimated seconds of a step, of run.json contents, newest first.

    Those count that did ten steps or more of the same method and tuning on as many devices of that name, of a
    model of about that size: an estimate is off by another factor where other work is most of a step.
    """
    found = [factor for record in records if _is_like(record, run) and (factor := _factor(record))][:_MOST]
    if not found:
        return None
    factor = median(found)
    apart = median(abs(each / factor - 1) for each in found)
    if len(found) < _FEWEST_RUNS:
        apart = max(apart, constant("run.step_error") / 2)
    return Learned(factor, apart, len(found))


def _factor(record: Mapping[str, Any]) -> float | None:
    estimated = ((record.get("plan") or {}).get("step_s") or {}).get("expected")
    measured = (record.get("actual") or {}).get("step_s")
    return measured / estimated if estimated and measured else None


def _is_like(record: Mapping[str, Any], run: Like) -> bool:
    machine, config = record.get("machine") or {}, record.get("config") or {}
    size = (record.get("model") or {}).get("num_params") or 0
    where = (machine.get("device_name"), machine.get("num_devices"))
    what = (record.get("method"), config.get("tuning"))
    if where != (run.device_name, run.num_devices) or what != (run.method, run.tuning):
        return False
    enough = (record.get("step") or 0) >= _FEWEST_STEPS
    return enough and run.num_params / _ALIKE <= size <= run.num_params * _ALIKE
