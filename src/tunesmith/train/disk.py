"""The disk: room on it is asked for before a run, and what it fails of all the same becomes a sentence."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunesmith.config.run_config import RunConfig
from tunesmith.errors import DiskSpaceError, RunStopped, first_words
from tunesmith.runs import checkpoints
from tunesmith.runs.folder import RunFolder
from tunesmith.train.model import Sizes

GIB = 2**30
_IS_FULL = "the disk is full"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Disks that break, that were mounted anew, network file systems whose server is gone.
_FAILING = frozenset({errno.EIO, errno.EROFS, errno.ESTALE})
# What safetensors and torch say; neither raises an OSError.
_FULL_TEXTS = ("No space left on device", "PytorchStreamWriter failed writing", "file write failed")
_FAILING_TEXTS = ("Input/output error", "Read-only file system", "Stale file handle")


def refuse_full_disk(config: RunConfig, sizes: Sizes) -> None:
    """Make sure that the checkpoints and the model will fit.

    Raises:
        DiskSpaceError: they won't.
    """
    num_kept = max(config.save_total_limit, checkpoints.LEAST_KEPT)
    # A checkpoint: fp32 weights and two AdamW moments of what is trained. While one is written, one more than
    # are kept stands on the disk.
    need = sizes.num_trainable_params * 12 * (num_kept + 1) + sizes.num_trainable_params * 4
    if config.init_from:  # the earlier run, merged, in fp32
        need += sizes.num_params * 4
    folder = Path(config.run_dir or "runs").absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if need > free:
        raise DiskSpaceError(
            f"the run needs about {_size(need)} on disk and {_size(free)} are free",
            where=str(folder),
            fix="free some, lower save_total_limit, or choose another --run-dir",
        )


@contextmanager
def disk_errors_said(run: RunFolder) -> Iterator[None]:
    """Turn the many errors of a full or failing disk into one; half a checkpoint is removed.

    Raises:
        RunStopped: the run can go on, from a checkpoint or from its start.
        DiskSpaceError: the disk is full, and there is no checkpoint.
    """
    try:
        yield
    except RunStopped:  # it has its sentence
        raise
    except Exception as error:  # torch and safetensors raise kinds of their own (test_bad_input.py)
        trouble = trouble_with_disk(error)
        if trouble is None:
            raise
        what, remedy = trouble
        remove_torn(run)
        newest = run.newest_checkpoint()
        # By names: a disk that fails may hide for a moment what is whole.
        if what == _IS_FULL and not checkpoints.numbered(run.checkpoints_path):
            raise DiskSpaceError(
                f"{what} and no checkpoint could be written",
                where=str(run.path),
                fix=f"{remedy} or choose another --run-dir, then give the same command again",
            ) from error
        command = f"tunesmith resume {run.path}"
        with suppress(OSError):
            run.update(status="stopped", step=newest[1] if newest else 0, stopped_by="disk", resume=command)
        there = f"checkpoint at step {newest[1]} is whole" if newest else "no checkpoint can be read"
        raise RunStopped(
            f"{what}; {there}; {remedy} first",
            where=str(run.path),
            fix=command,
        ) from error


def trouble_with_disk(error: BaseException | None) -> tuple[str, str] | None:
    """What is wrong with the disk and what to do, where `error`, or one that led to it, says that."""
    while error is not None:
        number, said = getattr(error, "errno", None), str(error)
        if number in _FULL or any(text in said for text in _FULL_TEXTS):
            return _IS_FULL, "free some space"
        if number in _FAILING or any(text in said for text in _FAILING_TEXTS):
            why = getattr(error, "strerror", None) or first_words(error)
            return f"the disk can't be written ({why})", "make sure that it works"
        error = error.__cause__ or error.__context__
    return None


def remove_torn(run: RunFolder) -> None:
    """Remove what was not written to its end: checkpoints, models and bases."""
    checkpoints.sweep(run.checkpoints_path)
    for folder in (run.model_path, run.base_path):
        for each in run.path.glob(f".{folder.name}.*"):
            shutil.rmtree(each, ignore_errors=True)


def _size(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:.1f} MiB"
