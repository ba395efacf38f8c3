"""The vocabulary projection only where a label is: on a CPU, TRL computes it for every token.

TRL 1.16's fused LM head leaves out positions without a label on CUDA and XPU alone, so that compilers
elsewhere see constant shapes. On a plain CPU nothing is compiled, and with short answers the head is a
quarter of the step. Losses and gradients are the same (tests/test_loss_head.py); the gain stands in
benchmarks/RESULTS.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def labelled_positions_only(device: str) -> Iterator[None]:
    """While inside, TRL's fused head scores labelled positions only, on a CPU too.

    A TRL without the switch is left as it is: slower, not wrong.
    """
    from trl.trainer import utils

    switch = getattr(utils, "_use_triton", None)
    if device != "cpu" or switch is None:
        yield
        return
    utils._use_triton = lambda device: True
    try:
        yield
    finally:
        utils._use_triton = switch
