"""The state of every generator of this process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def randomness() -> dict[str, Any]:
    """Python's, numpy's, torch's, and that of the current GPU where there is one."""
    import numpy as np
    import torch

    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_randomness(state: dict[str, Any]) -> None:
    """Go back to what `randomness` told."""
    import numpy as np
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.random.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def kept_randomness() -> Iterator[None]:
    """Draw what you like inside: what is drawn afterwards is as if nothing had been."""
    before = randomness()
    try:
        yield
    finally:
        set_randomness(before)
