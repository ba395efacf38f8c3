"""One capture of a CUDA graph, after which a run can go on whether it succeeded or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def capturing(graph: Any, pool: Any) -> Iterator[None]:
    """Capture what is launched inside into `graph`, whose memory comes from `pool`.

    Raises:
        RuntimeError: something inside can't be captured; `pool` isn't to be used again.
    """
    import torch

    # Where a capture fails, torch (2.11, 2.13) leaves its stream the current one.
    with torch.cuda.stream(torch.cuda.current_stream()):
        try:
            # Other threads (data loading, NCCL's) may go on meanwhile.
            with torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):
                yield
        except RuntimeError:
            _recover(pool)
            raise


def cause(error: BaseException) -> BaseException:
    """What went wrong first: the end of a failed capture raises as well."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _recover(pool: Any) -> None:
    """Let memory and random numbers be had as before: both still wait for the capture's end."""
    import torch

    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        if release := getattr(torch._C, name, None):
            with contextlib.suppress(RuntimeError):
                release(torch.cuda.current_device(), pool)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.zeros(1, device="cuda")
