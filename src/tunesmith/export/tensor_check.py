"""Whether the numbers of a file are those that it was made from, tensor by tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.gguf_header import check_gguf

# Rounding to 16 bit changes the norm of a matrix by less than a millionth; 5 % noise on it by a thousandth.
_TOLERANCE = 2e-5


def tensors_not_converted(folder: Path, gguf: Path) -> list[str]:
    """Matrices of a GGUF file in 16 or 32 bit that no tensor of the model folder has the size and norm of.

    Converters permute rows and rename, which leaves both; where they join or split tensors, sizes differ from
    all in the folder, and nothing is told.
    """
    norms = defaultdict(list)
    for size, norm in _norms_of_folder(folder):
        norms[size].append(norm)
    differing = []
    for tensor in _tensors(gguf):
        if len(tensor.shape) < 2 or tensor.tensor_type.name not in ("F32", "F16", "BF16"):
            continue
        known = norms[int(tensor.n_elements)]
        if not known:
            continue
        norm = _norm(_values(tensor))
        nearest = min(known, key=lambda each: abs(each - norm))
        if abs(nearest - norm) > _TOLERANCE * norm:
            differing.append(str(tensor.name))
        elif len(known) > 1:  # each is matched once; of tied matrices a file may have more
            known.remove(nearest)
    return differing


def tensors_not_quantized(source: Path, target: Path, quantize: Any) -> list[str]:
    """Tensors of a quantised file that aren't byte by byte what `quantize(name, values, type)` makes of them.

    `quantize` gives None for types that it can't make.
    """
    originals = {tensor.name: tensor for tensor in _tensors(source)}
    differing = []
    for tensor in _tensors(target):
        original = originals.pop(tensor.name, None)
        if original is None:
            differing.append(str(tensor.name))
            continue
        expected = _values(original) if tensor.tensor_type == original.tensor_type else None
        if expected is not None:
            same = np.array_equal(np.asarray(tensor.data), np.asarray(original.data))
        else:
            made = quantize(str(tensor.name), _values(original), tensor.tensor_type)
            same = made is None or np.asarray(tensor.data).tobytes() == made
        if not same:
            differing.append(str(tensor.name))
    return differing + [str(name) for name in originals]


def _tensors(path: Path) -> list[Any]:
    from gguf import GGUFReader

    check_gguf(path)
    return list(GGUFReader(path).tensors)


def _values(tensor: Any) -> np.ndarray:
    from gguf.quants import dequantize

    return np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)


def _norms_of_folder(folder: Path) -> Iterator[tuple[int, float]]:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                tensor = file.get_tensor(name)
                if tensor.dim() > 1:
                    yield tensor.numel(), float(tensor.double().norm())


def _norm(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).sum()))
