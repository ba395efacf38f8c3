"""What the processes of one run agree upon; a single one has nothing to agree and nothing to wait for.

All have the same data and settings; each trains a part of every batch. The first (rank 0) writes the run
folder and the model, and speaks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any


def world_size() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This one's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def join(device: str) -> None:
    """Meet the others, and take the GPU that is this one's."""
    import torch
    import torch.distributed as dist

    if world_size() == 1 or dist.is_initialized():
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Few numbers of Python's go over gloo: NCCL would wait for the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")


def leave() -> None:
    """Wait for the others to come to their end too."""
    import torch.distributed as dist

    if world_size() > 1 and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def smallest(value: float) -> float:
    """The smallest of the values that the processes give."""
    return -largest(-value)


def largest(value: float) -> float:
    """The largest of the values that the processes give; none goes on before all have given theirs."""
    if world_size() == 1:
        return value
    import torch
    import torch.distributed as dist

    held = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(held, op=dist.ReduceOp.MAX)
    return float(held)


def first_says(value: str) -> str:
    """What the first process gives, in all of them."""
    if world_size() == 1:
        return value
    import torch.distributed as dist

    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


def gathered(value: Any) -> list[Any]:
    """What each of the processes gives, by rank; none goes on before all have given theirs."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    held: list[Any] = [None] * world_size()
    dist.all_gather_object(held, value)
    return held


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """The body runs in the first process, then in the others: for what one makes and the others find."""
    if rank() > 0:
        largest(0)
    try:
        yield
    finally:
        if rank() == 0:
            largest(0)
