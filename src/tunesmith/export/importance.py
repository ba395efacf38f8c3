"""How much each column of a weight matters: the mean square of what it is multiplied with in llama.cpp.

These are the importance matrices of llama.cpp's own tool (tools/imatrix at ggml-org/llama.cpp): of the
matrices of all layers, and of each expert's rows alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from tunesmith.export.llama_cpp import Library, LlamaCppError

_NAME = 64
_TYPE_F32, _TYPE_I32 = 0, 26


class _Tensor(ctypes.Structure):
    """ggml_tensor of ggml/include/ggml.h at the pinned release."""


_Pointer = ctypes.POINTER(_Tensor)
_Tensor._fields_ = [
    ("type", ctypes.c_int32), ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4), ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int32), ("op_params", ctypes.c_int32 * 16), ("flags", ctypes.c_int32),
    ("src", _Pointer * 10), ("view_src", _Pointer), ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p), ("name", ctypes.c_char * _NAME),
]  # fmt: skip


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


class Importance:
    """Sums over all tokens that a model reads while `hear` is its callback."""

    def __init__(self, library: Library) -> None:
        self._product, self._of_experts = _operations(library)
        self._squares: dict[str, np.ndarray] = {}
        self._counts: dict[str, np.ndarray] = {}
        self._error: Exception | None = None
        kind = ctypes.CFUNCTYPE(ctypes.c_bool, _Pointer, ctypes.c_bool, ctypes.c_void_p)
        self.callback: Callable[..., bool] = kind(self._hear)

    def matrices(self) -> dict[str, np.ndarray]:
        """By the name of the weight: one number a column, of experts one after the other."""
        if self._error:
            raise LlamaCppError(f"no importance can be told: {self._error}")
        means = {}
        for name, squares in self._squares.items():
            counts = self._counts[name][:, None]
            # An expert that nothing came to matters like any other.
            mean = np.where(counts > 0, squares / np.maximum(counts, 1), 1.0)
            means[name] = np.ascontiguousarray(mean.ravel(), np.float32)
        return means

    def _hear(self, tensor: Any, asks: bool, _: Any) -> bool:
        node = tensor.contents
        if node.op not in (self._product, self._of_experts):
            return not asks
        weight = node.src[0].contents.name.decode("utf-8", "replace")
        if asks:
            return weight.startswith("blk.") and weight.endswith(".weight")
        try:
            self._add(weight, node)
        except Exception as error:  # ctypes would print it and go on (test_export_importance.py)
            self._error = error
        return self._error is None

    def _add(self, weight: str, node: Any) -> None:
        values = _array(node.src[1].contents, _TYPE_F32, np.float32).astype(np.float64) ** 2
        num_experts = 1
        if node.op == self._of_experts:
            num_experts = int(node.src[0].contents.ne[2])
            chosen = _array(node.src[2].contents, _TYPE_I32, np.int32)[0, 0]  # (tokens, experts a token)
            rows = np.broadcast_to(values[0], (*chosen.shape, values.shape[-1])).reshape(-1, values.shape[-1])
            experts = chosen.reshape(-1)
        else:
            rows = values.reshape(-1, values.shape[-1])
            experts = np.zeros(len(rows), np.int32)
        squares = self._squares.setdefault(weight, np.zeros((num_experts, rows.shape[-1])))
        counts = self._counts.setdefault(weight, np.zeros(num_experts))
        np.add.at(squares, experts, rows)
        np.add.at(counts, experts, 1)


def _array(tensor: Any, kind: int, dtype: Any) -> np.ndarray:
    """A tensor's numbers, its fastest axis last: (ne3, ne2, ne1, ne0)."""
    if tensor.type != kind:
        raise LlamaCppError(f"{tensor.name.decode()} is of type {tensor.type}, and {kind} was expected")
    shape, strides = tuple(tensor.ne[::-1]), tuple(tensor.nb[::-1])
    size = 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True)) // 4
    item = ctypes.c_float if dtype is np.float32 else ctypes.c_int32
    flat = np.ctypeslib.as_array(ctypes.cast(tensor.data, ctypes.POINTER(item)), shape=(size,))
    return np.lib.stride_tricks.as_strided(flat, shape, strides)


def _operations(library: Library) -> tuple[int, int]:
    """ggml's numbers for a product of matrices and for one of experts; tensors are read back to be sure."""
    ggml = library.ggml
    ggml.ggml_init.argtypes, ggml.ggml_init.restype = [_InitParams], ctypes.c_void_p
    ggml.ggml_free.argtypes = [ctypes.c_void_p]
    for name, count in (("ggml_new_tensor_2d", 2), ("ggml_new_tensor_3d", 3)):
        function = getattr(ggml, name)
        function.argtypes = [ctypes.c_void_p, ctypes.c_int32, *[ctypes.c_int64] * count]
        function.restype = _Pointer
    ggml.ggml_set_name.argtypes = [_Pointer, ctypes.c_char_p]
    ggml.ggml_mul_mat.argtypes = [ctypes.c_void_p, _Pointer, _Pointer]
    ggml.ggml_mul_mat_id.argtypes = [ctypes.c_void_p, _Pointer, _Pointer, _Pointer]
    ggml.ggml_mul_mat.restype = ggml.ggml_mul_mat_id.restype = _Pointer
    context = ggml.ggml_init(_InitParams(1 << 16, None, True))
    try:
        weight = ggml.ggml_new_tensor_2d(context, _TYPE_F32, 3, 5)
        ggml.ggml_set_name(weight, b"blk.0.weight")
        product = ggml.ggml_mul_mat(context, weight, ggml.ggml_new_tensor_2d(context, _TYPE_F32, 3, 7))
        experts = ggml.ggml_new_tensor_3d(context, _TYPE_F32, 3, 5, 4)
        rows = ggml.ggml_new_tensor_3d(context, _TYPE_F32, 3, 1, 7)
        chosen = ggml.ggml_new_tensor_2d(context, _TYPE_I32, 2, 7)
        of_experts = ggml.ggml_mul_mat_id(context, experts, rows, chosen)
        found = product.contents.src[0].contents
        told = (found.name, list(found.ne), list(found.nb), of_experts.contents.src[2].contents.type)
        if told != (b"blk.0.weight", [3, 5, 1, 1], [4, 12, 60, 60], _TYPE_I32):
            raise LlamaCppError(f"the library has tensors of another layout: {told}")
        return int(product.contents.op), int(of_experts.contents.op)
    finally:
        ggml.ggml_free(context)
