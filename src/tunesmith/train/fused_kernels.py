"""Norms, rotations and gated layers by Liger's kernels, where they are installed and know the model.

PyTorch does an RMS norm in eight kernels, each reading and writing all activations; Liger (arXiv 2410.10989)
does it in one. Its fused losses are left out: TRL's head has its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tunesmith.errors import first_line


@contextlib.contextmanager
def kernels_fused(models: list[Any], notify: Callable[[str], None]) -> Iterator[None]:
    """Inside, let the layers of `models`, without adapters around them, use Liger's kernels.

    For an architecture that Liger doesn't know nothing changes; `notify` hears when it fails. Liger replaces
    functions and classes for all models of an architecture: those are put back at the end.
    """
    if importlib.util.find_spec("liger_kernel") is None:
        yield
        return
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    modules = {type(model).__module__: sys.modules[type(model).__module__] for model in models}
    before = {name: dict(vars(module)) for name, module in modules.items()}
    losses = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    try:
        for model in models:
            _apply_liger_kernel_to_instance(model=model, **losses)
    except Exception as error:  # a Liger that doesn't know this version of transformers: whatever that raises
        notify(f"Liger's kernels can't be used with this model ({first_line(error)})")
    try:
        yield
    finally:
        for name, module in modules.items():
            for attribute, value in before[name].items():
                if getattr(module, attribute, None) is not value:
                    setattr(module, attribute, value)
