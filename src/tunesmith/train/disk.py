"""Room on the disk: asked for before a run, and a sentence when it ends all the same."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunesmith.config.run_config import RunConfig
from tunesmith.errors import DiskSpaceError, RunStopped
from tunesmith.runs import checkpoints
from tunesmith.runs.folder import RunFolder
from tunesmith.train.model import Sizes

GIB = 2**30
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# What safetensors and torch say; neither raises an OSError.
FULL_TEXTS = ("No space left on device", "PytorchStreamWriter failed writing", "file write failed")


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
def full_disk_said(run: RunFolder) -> Iterator[None]:
    """Turn the many errors of a full disk into one; half a checkpoint is removed.

    Raises:
        RunStopped: a whole checkpoint is there to go on from.
        DiskSpaceError: there is none.
    """
    try:
        yield
    except Exception as error:  # torch and safetensors raise kinds of their own (test_bad_input.py)
        if not is_full_disk(error):
            raise
        remove_torn(run)
        newest = run.newest_checkpoint()
        if newest is None:
            raise DiskSpaceError(
                "the disk is full and no checkpoint could be written",
                where=str(run.path),
                fix="free some space or choose another --run-dir, then give the same command again",
            ) from error
        command = f"tunesmith resume {run.path}"
        with suppress(OSError):
            run.update(status="stopped", step=newest[1], stopped_by="full disk", resume=command)
        raise RunStopped(
            f"the disk is full; checkpoint at step {newest[1]} is whole; free some space first",
            where=str(run.path),
            fix=command,
        ) from error


def is_full_disk(error: BaseException | None) -> bool:
    """True when `error`, or one that led to it, is a disk without room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(text in str(error) for text in FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def remove_torn(run: RunFolder) -> None:
    """Remove what was not written to its end: checkpoints, models and bases."""
    checkpoints.sweep(run.checkpoints_path)
    for folder in (run.model_path, run.base_path):
        for each in run.path.glob(f".{folder.name}.*"):
            shutil.rmtree(each, ignore_errors=True)


def _size(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:.1f} MiB"
