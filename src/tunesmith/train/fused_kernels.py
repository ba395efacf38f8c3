"""Norms, rotations and gated layers by Liger's kernels, where they are installed and know the model.

PyTorch does an RMS norm in eight kernels, each reading and writing all activations; Liger (arXiv 2410.10989)
does it in one. Its fused losses are left out: TRL's head has its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from tunesmith.errors import first_line


def fuse_kernels(model: Any, notify: Callable[[str], None]) -> None:
    """Let the layers of `model`, a causal language model without adapter around it, use Liger's kernels.

    For an architecture that Liger doesn't know nothing changes; `notify` hears when it fails.
    """
    if importlib.util.find_spec("liger_kernel") is None:
        return
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    try:
        _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
    except Exception as error:  # a Liger that doesn't know this version of transformers: whatever that raises
        notify(f"Liger's kernels can't be used with this model ({first_line(error)})")
