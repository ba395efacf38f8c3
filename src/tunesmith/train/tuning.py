"""`tuning: auto`: every weight where that fits, an adapter where it doesn't."""

from __future__ import annotations

from tunesmith.config.loading import LoadedConfig, with_tuning
from tunesmith.train.events import Listener, Notice, Phase
from tunesmith.train.machine import probe_machine
from tunesmith.train.method_trainer import RowCounts
from tunesmith.train.planning import Task, outlook_here, retuned, rows_of_data, task_of
from tunesmith.train.setup import refuse_unwatched_processes


def tasks_of(loaded: LoadedConfig, rows: RowCounts) -> list[Task]:
    """The task, or with `tuning: auto` one for each way to tune, the better first.

    Raises:
        TunesmithError: as `task_of`.
    """
    if loaded.config.tuning != "auto":
        return [task_of(loaded.config, rows)]
    full = task_of(with_tuning(loaded, "full").config, rows)
    return [full, retuned(full, with_tuning(loaded, "lora").config)]


def settle_tuning(loaded: LoadedConfig, listener: Listener) -> LoadedConfig:
    """The configuration with a tuning in place of auto: full where a plan for this machine has no fault.

    The data is read for its lengths, and once more when training is set up.

    Raises:
        TunesmithError: data, model or machine can't be planned with.
    """
    if loaded.config.tuning != "auto":
        return loaded
    refuse_unwatched_processes()
    listener(Phase("choosing between full fine-tuning and an adapter"))
    full = with_tuning(loaded, "full")
    found = outlook_here(task_of(full.config, rows_of_data(full.config)), probe_machine(loaded.config.device))
    if found.faults:
        listener(Notice(f"tuning auto: an adapter; for full fine-tuning {'; '.join(found.faults)}"))
        return with_tuning(loaded, "lora")
    listener(Notice("tuning auto: full fine-tuning fits"))
    return full
