"""What torch, numpy and TRL hold in memory as safetensors and JSON, and back; no pickle anywhere."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import RunFolderError

TENSORS, REST = "state.safetensors", "state.json"
# What stands in the JSON in place of a value that JSON doesn't know.
_TENSOR, _ARRAY, _TUPLE, _PAIRS = "$tensor", "$array", "$tuple", "$pairs"


class Packed:
    """A nested value in two parts: `rest` for JSON, and `tensors` by name, which are those of the value."""

    def __init__(self, value: Any) -> None:
        self.tensors: dict[str, Any] = {}
        self.rest = self._pack(value)

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(each.numel() * each.element_size() for each in self.tensors.values())

    def write(self, folder: Path) -> None:
        """Write both parts into `folder`; the tensors have to be copies on the CPU by then."""
        from safetensors.torch import save_file

        save_file(self.tensors, folder / TENSORS)
        (folder / REST).write_text(json.dumps(self.rest), encoding="utf-8")

    def _pack(self, value: Any) -> Any:
        import numpy as np
        import torch

        if value is None or isinstance(value, (bool, int, float, str)):
            return value.item() if isinstance(value, np.generic) else value
        if isinstance(value, torch.Tensor):
            return {_TENSOR: self._keep(value)}
        if isinstance(value, np.ndarray):
            return {_ARRAY: self._keep(torch.from_numpy(value)), "dtype": str(value.dtype)}
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, tuple):
            return {_TUPLE: [self._pack(each) for each in value]}
        if isinstance(value, (list, deque)):
            return [self._pack(each) for each in value]
        if isinstance(value, Mapping):
            return {_PAIRS: [[self._pack(key), self._pack(each)] for key, each in value.items()]}
        raise TypeError(f"a checkpoint can't keep a {type(value).__name__}")

    def _keep(self, tensor: Any) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = tensor.detach()
        return name


def read_state(folder: Path) -> dict[str, Any]:
    """What `Packed.write` wrote.

    Raises:
        RunFolderError: it isn't there, or isn't what was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        rest = json.loads((folder / REST).read_text(encoding="utf-8"))
        state = _unpack(rest, load_file(folder / TENSORS))
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        raise RunFolderError(
            f"the state of the training can't be read: {error}",
            where=str(folder),
            fix=f"move {folder.name} away, and the checkpoint before it is taken",
        ) from error
    return dict(state)


def _unpack(rest: Any, tensors: Mapping[str, Any]) -> Any:
    import numpy as np

    if isinstance(rest, list):
        return [_unpack(each, tensors) for each in rest]
    if not isinstance(rest, dict):
        return rest
    if _TENSOR in rest:  # a copy: what safetensors gives may be the file itself, mapped into memory
        return tensors[rest[_TENSOR]].clone()
    if _ARRAY in rest:
        return tensors[rest[_ARRAY]].numpy().astype(np.dtype(rest["dtype"]))
    if _TUPLE in rest:
        return tuple(_unpack(each, tensors) for each in rest[_TUPLE])
    return {_unpack(key, tensors): _unpack(each, tensors) for key, each in rest[_PAIRS]}
