"""Copies of a GPU's tensors on the host, made in the time that the bus takes.

Memory that is new to a process is found page by page, about a GiB a second on an H100's host, and the steps
would wait for it. So room for a checkpoint is made once, in a thread of its own, and used again each time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from tunesmith.train.host_memory import available_bytes

# More than this share of the host's free memory isn't held for long: copies come and go instead.
_SHARE = 0.25
# Copies begin where any type of number, and the bus, may begin.
_ALIGNED = 256


class HostCopies:
    """Room on the host for what one checkpoint holds of a GPU."""

    def __init__(self) -> None:
        self._room: Any = None
        self._pinned = False
        self._making: threading.Thread | None = None

    def make_room(self, tensors: Sequence[Any]) -> None:
        """Begin to make room for so much as these tensors take, unless that has begun or is too much."""
        size = sum(_size(each) for each in tensors if each.is_cuda)
        if self._making is None and 0 < size <= _SHARE * available_bytes():
            self._making = threading.Thread(target=self._make, args=(size,), name="room for checkpoints")
            self._making.start()

    def copies(self, tensors: Sequence[Any]) -> list[Any]:
        """A copy of each tensor; those of a GPU stay as they are until the next call only."""
        import torch

        if self._making is not None:
            self._making.join()
        left = memoryview(self._room) if self._room is not None else memoryview(b"")
        made = []
        for each in tensors:
            size = _size(each)
            if each.is_cuda and 0 < size <= len(left):
                # Storage of its own: transformers and safetensors take views of one for tied weights.
                copy = torch.frombuffer(left, dtype=each.dtype, count=each.numel()).view(each.shape)
                copy.copy_(each.detach(), non_blocking=True)
                left = left[size:]
            else:
                copy = each.detach().to("cpu", copy=True).contiguous()
            made.append(copy)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return made

    def release(self) -> None:
        """Give the room back; nobody may use the copies any more."""
        import torch

        if self._making is not None:
            self._making.join()
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._room.ctypes.data)
        self._room, self._pinned, self._making = None, False, None

    def _make(self, size: int) -> None:
        import numpy as np
        import torch

        room = np.empty(size, dtype=np.uint8)
        # Finds the pages before the driver does, which would keep kernels waiting meanwhile.
        room.fill(0)
        # What is pinned a GPU writes to by itself; where that is refused, copies take longer.
        self._pinned = int(torch.cuda.cudart().cudaHostRegister(room.ctypes.data, size, 0)) == 0
        self._room = room


def _size(tensor: Any) -> int:
    """Bytes of its copy, and up to where the next may begin."""
    return -(-tensor.numel() * tensor.element_size() // _ALIGNED) * _ALIGNED
