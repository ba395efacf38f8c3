"""How a training ends before its last step: what of it is kept, and the sentence that says why."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from tunesmith.errors import PlanError, RunInterrupted, RunStopped, first_words
from tunesmith.plan.choice import allowed_micro_batches
from tunesmith.runs.folder import RunFolder
from tunesmith.train.events import Listener, Notice
from tunesmith.train.finite import NotFinite, rows_of_step
from tunesmith.train.judge import RewardFailed
from tunesmith.train.processes import world_size
from tunesmith.train.setup import Setup

# What PyTorch says where the memory of the host ends; that is no error class of its own.
_HOST_TEXT = "DefaultCPUAllocator"


class OutOfMemory(Exception):
    """A step didn't fit in memory; the last whole one before it is kept."""


def early_end(failure: Exception, trainer: Any, run: RunFolder, setup: Setup) -> Exception | None:
    """What to raise in place of `failure`, after all that can be kept is kept; None where it isn't known."""
    if isinstance(failure, RewardFailed):
        trainer.save_last_step()
        return stopped(run, str(failure), stopped_by="reward", advice="Mend the reward first")
    if isinstance(failure, NotFinite):
        return stopped(
            run,
            f"{failure}{_rows(trainer, failure.step)}",
            stopped_by="not finite",
            advice=f"A lower learning_rate than {setup.config.learning_rate:g}, or other rows, may help; "
            "the checkpoint is from before",
        )
    if is_out_of_memory(failure):
        if trainer is None:
            return PlanError(
                f"{setup.config.model} doesn't fit in the memory of this machine: {first_words(failure)}",
                where="model",
                fix="end what else uses the memory, or take --tuning qlora or a smaller model",
            )
        trainer.save_last_step()
        return OutOfMemory(first_words(failure))
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a device, or of the host, was at its end."""
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _HOST_TEXT in str(error)


def smaller(setup: Setup, run: RunFolder, listener: Listener, error: OutOfMemory) -> Setup:
    """`setup` in smaller micro-batches of the same global batch, or with activations computed again.

    Raises:
        RunStopped: there is nothing smaller.
    """
    choice, config = setup.choice, setup.config
    rows = choice.per_device_train_batch_size
    group = config.num_generations if setup.rewards else None
    smallest = max(setup.method.smallest_micro_batch, group or 1)
    fewer = [each for each in allowed_micro_batches(config, world_size(), smallest) if each < rows]
    newest = run.newest_checkpoint()
    step = newest[1] if newest else 0
    if fewer and world_size() == 1:
        accumulate = choice.gradient_accumulation_steps * rows // max(fewer)
        change = {"per_device_train_batch_size": max(fewer), "gradient_accumulation_steps": accumulate}
        told = f"micro-batches of {max(fewer)} instead of {rows} rows, the same global batch"
    elif world_size() == 1 and not choice.gradient_checkpointing and config.gradient_checkpointing is None:
        change, told = {"gradient_checkpointing": True}, "activations computed again in the backward pass"
    else:
        raise stopped(
            run,
            f"out of memory in micro-batches of {rows} row{'s' if rows > 1 else ''}: {error}",
            stopped_by="memory",
            advice="End what else uses the memory, or begin anew with a smaller max_length or --tuning qlora",
        )
    listener(Notice(f"out of memory; going on from step {step} with {told}"))
    done = [*(run.record.get("out_of_memory") or []), {"step": step, **change}]
    changed = replace(choice, **change, reasons=(*choice.reasons, f"out of memory at step {step}: {told}"))
    setup = replace(setup, choice=changed)
    run.update(choice=changed.as_dict(), out_of_memory=done)
    return setup


def release_memory() -> None:
    """Give back what a training that failed held."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def signals_told(run: RunFolder, stop: Any) -> Iterator[None]:
    """Inside, a signal that nothing else took ends the run with its sentence."""
    try:
        yield
    except KeyboardInterrupt:
        raise stopped_by_signal(run, stop) from None


def stopped_by_signal(run: RunFolder, stop: Any) -> RunStopped:
    """The end by a signal or the deadline."""
    kind = RunInterrupted if stop.by == "SIGINT" else RunStopped
    advice = "Give it more max_minutes, or go on in another job" if stop.by == "deadline" else ""
    return stopped(run, stop.reason, stopped_by=stop.by, advice=advice, kind=kind)


def stopped(
    run: RunFolder, why: str, *, stopped_by: str, advice: str = "", kind: type[RunStopped] = RunStopped
) -> RunStopped:
    """Write into run.json that the run stopped; the error that says so comes back."""
    newest = run.newest_checkpoint()
    step = newest[1] if newest else 0
    kept = f"checkpoint at step {step} is written" if newest else "there is no checkpoint yet"
    resume = f"tunesmith resume {run.path}"
    with suppress(OSError):  # a full disk: the run then reads as killed, and can be resumed as well
        run.update(status="stopped", step=step, stopped_by=stopped_by, resume=resume)
    said = f"{why}; {kept}" + (f". {advice}" if advice else "")
    return kind(said, where=str(run.path), fix=resume)


def _rows(trainer: Any, step: int) -> str:
    if trainer is None or world_size() > 1:
        return ""
    return f"; it learned from {', '.join(rows_of_step(trainer, step))}"
