"""llama.cpp itself, through ctypes: what a GGUF file tokenises and predicts, and smaller copies of it.

The structures are those of include/llama.h at the pinned release; their default values are compared when the
library is loaded, so that another layout is an error and no wrong number. A file that llama.cpp can't bear
may end the process: `llama_child.py` is where this runs.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.export.binaries import LLAMA_CPP, SUFFIXES

_i32, _u32, _f32, _bool, _pointer = (
    ctypes.c_int32,
    ctypes.c_uint32,
    ctypes.c_float,
    ctypes.c_bool,
    ctypes.c_void_p,
)


def _structure(name: str, *fields: tuple[Any, str]) -> Any:
    named = [(each, kind) for kind, names in fields for each in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": named})


_ModelParams = _structure(
    "llama_model_params",
    (_pointer, "devices tensor_buft_overrides"),
    (_i32, "n_gpu_layers split_mode load_mode lazy_mode main_gpu"),
    (_pointer, "tensor_split progress_callback progress_callback_user_data kv_overrides"),
    (_bool, "vocab_only check_tensors use_extra_bufts no_host no_alloc load_mtp"),
)
_ContextParams = _structure(
    "llama_context_params",
    (_u32, "n_ctx n_batch n_ubatch n_seq_max n_rs_seq n_outputs_max n_outputs_max_per_seq"),
    (
        _i32,
        "n_threads n_threads_batch ctx_type rope_scaling_type pooling_type attention_type flash_attn_type",
    ),
    (_f32, "rope_freq_base rope_freq_scale yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow"),
    (_u32, "yarn_orig_ctx"),
    (_f32, "defrag_thold"),
    (_pointer, "cb_eval cb_eval_user_data"),
    (_i32, "type_k type_v"),
    (_pointer, "abort_callback abort_callback_data"),
    (_bool, "embeddings offload_kqv no_perf op_offload swa_full kv_unified"),
    (_pointer, "samplers"),
    (ctypes.c_size_t, "n_samplers"),
    (_pointer, "ctx_other"),
)
_QuantizeParams = _structure(
    "llama_model_quantize_params",
    (_i32, "nthread ftype output_tensor_type token_embedding_type"),
    (_bool, "allow_requantize quantize_output_tensor only_copy pure keep_split dry_run"),
    (_pointer, "imatrix kv_overrides tt_overrides prune_layers"),
)
_ImatrixData = _structure(
    "llama_model_imatrix_data", (ctypes.c_char_p, "name"), (_pointer, "data"), (ctypes.c_size_t, "size")
)


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", _i32), ("token", ctypes.POINTER(_i32)), ("embd", _pointer),
        ("pos", ctypes.POINTER(_i32)),
        ("n_seq_id", ctypes.POINTER(_i32)), ("seq_id", ctypes.POINTER(ctypes.POINTER(_i32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]  # fmt: skip


_TYPE_F32, _TYPE_F16 = 0, 1
_DEFAULTS = {
    "llama_model_default_params": {
        "n_gpu_layers": -1, "main_gpu": 0, "tensor_split": None, "use_extra_bufts": True,
    },
    "llama_context_default_params": {
        "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "type_k": _TYPE_F16, "type_v": _TYPE_F16,
        "yarn_ext_factor": -1.0, "offload_kqv": True, "n_samplers": 0,
    },
    "llama_model_quantize_default_params": {"ftype": 7, "quantize_output_tensor": True, "only_copy": False},
}  # fmt: skip
# llama_ftype of include/llama.h, by the names that llama.cpp's own quantiser gives them.
FTYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11,
    "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18,
    "IQ2_XXS": 19, "IQ2_XS": 20, "Q2_K_S": 21, "IQ3_XS": 22, "IQ3_XXS": 23, "IQ1_S": 24, "IQ4_NL": 25,
    "IQ3_S": 26, "IQ3_M": 27, "IQ2_S": 28, "IQ2_M": 29, "IQ4_XS": 30, "IQ1_M": 31, "BF16": 32,
}  # fmt: skip


class LlamaCppError(Exception):
    """llama.cpp refused; what it logged is the message."""


class Library:
    """The prebuilt libraries of a folder, loaded once a process."""

    def __init__(self, folder: Path) -> None:
        self.log: list[str] = []
        libraries = {part: _library(folder, part) for part in ("ggml-base", "ggml", "llama")}
        loaded = {part: ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL) for part, path in libraries.items()}
        self._llama, self.ggml = loaded["llama"], loaded["ggml-base"]
        self._declare()
        self._hear()
        loaded["ggml"].ggml_backend_load_all_from_path(os.fsencode(folder))
        self._llama.llama_backend_init()
        self._defaults()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llama, f"llama_{name}")

    def failed(self, what: str) -> LlamaCppError:
        """An error with the last line that llama.cpp logged as one."""
        said = [line for line in self.log if "error" in line.lower() or "failed" in line.lower()] or self.log
        return LlamaCppError(f"{what}: {said[0] if said else 'it says no more'}")

    def quantize(
        self,
        source: Path,
        target: Path,
        kind: str,
        threads: int,
        imatrix: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Write a copy of a GGUF file in another precision; `imatrix` weighs the columns of each tensor."""
        params = self._llama.llama_model_quantize_default_params()
        params.nthread, params.ftype = threads, FTYPES[kind]
        if imatrix:
            rows = [
                _ImatrixData(name.encode(), each.ctypes.data, each.size) for name, each in imatrix.items()
            ]
            table = (_ImatrixData * (len(rows) + 1))(*rows)  # the last has no name
            params.imatrix = ctypes.cast(table, _pointer)
        if self.model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params)) != 0:
            raise self.failed(f"llama.cpp can't write {kind}")

    def quantized(self, values: np.ndarray, kind: int, importance: np.ndarray | None = None) -> bytes | None:
        """What ggml makes of matrices (one, or one an expert) in the tensor type `kind`.

        `importance` holds a number for each column of each; None comes back of types that can't do without.
        """
        if importance is None and self.ggml.ggml_quantize_requires_imatrix(kind):
            return None
        rows, per_row = np.atleast_2d(values).shape[-2:]
        self.ggml.ggml_quantize_init(kind)
        made = []
        for number, matrix in enumerate(values.reshape(-1, rows, per_row)):
            room = ctypes.create_string_buffer(self.ggml.ggml_row_size(kind, per_row) * rows)
            weights = None if importance is None else importance[number * per_row :].ctypes.data
            self.ggml.ggml_quantize_chunk(kind, matrix.ctypes.data, room, 0, rows, per_row, weights)
            made.append(room.raw)
        return b"".join(made)

    def _defaults(self) -> None:
        for function, expected in _DEFAULTS.items():
            params = getattr(self._llama, function)()
            found = {name: getattr(params, name) for name in expected}
            if found != expected:
                raise LlamaCppError(f"the library isn't llama.cpp {LLAMA_CPP}: {function} gives {found}")

    def _hear(self) -> None:
        @ctypes.CFUNCTYPE(None, _i32, ctypes.c_char_p, _pointer)
        def hear(level: int, text: bytes, _: Any) -> None:
            line = text.decode("utf-8", "replace").strip()
            if level >= 3 and line:  # warnings and errors
                self.log.append(line)

        self._heard = hear  # ctypes keeps no reference
        self._llama.llama_log_set(hear, None)

    def _declare(self) -> None:
        pointers = (
            "model_load_from_file", "init_from_model", "model_get_vocab", "get_memory", "get_logits_ith",
            "adapter_lora_init",
        )  # fmt: skip
        for name in pointers:
            getattr(self._llama, f"llama_{name}").restype = _pointer
        for name, kind in (
            ("model", _ModelParams),
            ("context", _ContextParams),
            ("model_quantize", _QuantizeParams),
        ):
            getattr(self._llama, f"llama_{name}_default_params").restype = kind
        self.ggml.ggml_quantize_requires_imatrix.restype = _bool
        self.ggml.ggml_row_size.restype = self.ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.ggml.ggml_row_size.argtypes = [_i32, ctypes.c_int64]
        self.ggml.ggml_quantize_chunk.argtypes = [
            _i32, _pointer, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, _pointer,
        ]  # fmt: skip
        self._llama.llama_model_load_from_file.argtypes = [ctypes.c_char_p, _ModelParams]
        self._llama.llama_init_from_model.argtypes = [_pointer, _ContextParams]
        self._llama.llama_tokenize.argtypes = [
            _pointer, ctypes.c_char_p, _i32, ctypes.POINTER(_i32), _i32, _bool, _bool,
        ]  # fmt: skip
        self._llama.llama_adapter_lora_init.argtypes = [_pointer, ctypes.c_char_p]
        self._llama.llama_set_adapters_lora.argtypes = [_pointer, _pointer, ctypes.c_size_t, _pointer]
        self._llama.llama_decode.argtypes = [_pointer, _Batch]
        self._llama.llama_get_logits_ith.argtypes = [_pointer, _i32]
        self._llama.llama_memory_clear.argtypes = [_pointer, _bool]
        for name in ("bos", "eos", "eot", "pad", "n_tokens", "get_add_bos", "get_add_eos"):
            function = getattr(self._llama, f"llama_vocab_{name}")
            function.argtypes = [_pointer]
            function.restype = _bool if name.startswith("get_add") else _i32
        self._llama.llama_vocab_is_eog.argtypes = [_pointer, _i32]
        self._llama.llama_vocab_is_eog.restype = _bool
        self._llama.llama_model_meta_val_str.argtypes = [
            _pointer, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t,
        ]  # fmt: skip
        for name in ("model_free", "free", "get_memory", "model_get_vocab"):
            getattr(self._llama, f"llama_{name}").argtypes = [_pointer]


class GgufModel:
    """A GGUF file that llama.cpp has loaded, on the CPU."""

    def __init__(self, library: Library, path: Path, *, vocab_only: bool = False) -> None:
        self._library = library
        params = library.model_default_params()
        params.n_gpu_layers, params.vocab_only, params.check_tensors = 0, vocab_only, True
        self._model = library.model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise library.failed(f"llama.cpp can't load {path.name}")
        self._vocab = library.model_get_vocab(self._model)
        self._context = None
        self.vocab_size = int(library.vocab_n_tokens(self._vocab))

    def close(self) -> None:
        """Give its memory back."""
        if self._context:
            self._library.free(self._context)
        self._library.model_free(self._model)

    def special_tokens(self) -> dict[str, int]:
        """Ids of the special tokens; -1 where there is none."""
        return {
            name: int(getattr(self._library, f"vocab_{name}")(self._vocab))
            for name in ("bos", "eos", "eot", "pad")
        }

    def adds_bos(self) -> bool:
        """Whether it begins every text with the BOS token by itself."""
        return bool(self._library.vocab_get_add_bos(self._vocab))

    def metadata(self, key: str) -> str | None:
        """The text under a key of the file; None where there is none."""
        size = 1 << 10
        while True:
            room = ctypes.create_string_buffer(size)
            length = self._library.model_meta_val_str(self._model, key.encode(), room, size)
            if length < size:
                return room.value.decode("utf-8", "replace") if length >= 0 else None
            size = length + 1

    def ends_answers(self, token: int) -> bool:
        """Whether it stops when this token comes."""
        return bool(self._library.vocab_is_eog(self._vocab, token))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The ids of a text."""
        content = text.encode()
        room = len(content) + 8
        ids = (_i32 * room)()
        count = self._library.tokenize(
            self._vocab, content, len(content), ids, room, add_special, parse_special
        )
        if count < 0:
            raise LlamaCppError(f"llama.cpp can't tokenise a text of {len(content)} bytes")
        return list(ids[:count])

    def open(self, length: int, threads: int, hears: Any = None) -> None:
        """Make room for sequences of up to `length` tokens; keys and values are kept in fp32.

        `hears` is a callback of ctypes that each tensor is shown to (`importance.py`).
        """
        params = self._library.context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = max(length, 32)
        params.n_outputs_max = params.n_outputs_max_per_seq = 0
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = _TYPE_F32
        params.cb_eval = ctypes.cast(hears, _pointer) if hears else None
        self._context = self._library.init_from_model(self._model, params)
        if not self._context:
            raise self._library.failed("llama.cpp has no room for it")

    def apply_adapter(self, path: Path) -> None:
        """Add a LoRA adapter, itself a GGUF file, to what `open` made room for."""
        adapter = self._library.adapter_lora_init(self._model, os.fsencode(path))
        if not adapter:
            raise self._library.failed(f"llama.cpp can't load {path.name}")
        adapters, scales = (_pointer * 1)(adapter), (_f32 * 1)(1.0)
        if self._library.set_adapters_lora(self._context, adapters, 1, scales) != 0:
            raise self._library.failed(f"llama.cpp can't apply {path.name}")

    def read(self, ids: Sequence[int], first: int = 0) -> None:
        """Read a sequence from its beginning; the last layer goes on from position `first` only."""
        self._library.memory_clear(self._library.get_memory(self._context), True)
        self._decode(ids, 0, first)

    def logits(self, ids: Sequence[int], first: int) -> np.ndarray:
        """What may follow each token of `ids` from position `first` on: (positions, vocabulary), fp32."""
        self.read(ids, first)
        rows = [self._library.get_logits_ith(self._context, place) for place in range(first, len(ids))]
        return np.stack([self._row(each) for each in rows])

    def greedy(self, ids: Sequence[int], most: int) -> list[int]:
        """The likeliest tokens after `ids`, up to and with one that ends the answer, or `most` of them."""
        self.read(ids, len(ids) - 1)
        answer: list[int] = []
        place = len(ids) - 1
        while len(answer) < most:
            token = int(np.argmax(self._row(self._library.get_logits_ith(self._context, place))))
            answer.append(token)
            if self.ends_answers(token) or len(answer) == most:
                break
            self._decode([token], len(ids) + len(answer) - 1, 0)
            place = 0
        return answer

    def _row(self, address: int) -> np.ndarray:
        if not address:
            raise LlamaCppError("llama.cpp gives no logits")
        values = ctypes.cast(address, ctypes.POINTER(_f32))
        return np.ctypeslib.as_array(values, shape=(self.vocab_size,)).copy()

    def _decode(self, ids: Sequence[int], at: int, first: int) -> None:
        count = len(ids)
        sequence = (_i32 * 1)(0)
        batch = _Batch(
            n_tokens=count,
            token=(_i32 * count)(*ids),
            pos=(_i32 * count)(*range(at, at + count)),
            n_seq_id=(_i32 * count)(*[1] * count),
            seq_id=(ctypes.POINTER(_i32) * count)(*[ctypes.cast(sequence, ctypes.POINTER(_i32))] * count),
            logits=(ctypes.c_int8 * count)(*[place >= first for place in range(count)]),
        )
        if self._library.decode(self._context, batch) != 0:
            raise self._library.failed("llama.cpp can't read these tokens")


def _library(folder: Path, part: str) -> Path:
    """The file of a part: libllama.v0.4.0.so, libllama.metal.v0.4.0.dylib, llama.v0.4.0.dll."""
    for path in sorted(folder.iterdir()):
        if path.name.partition(".")[0] in (part, f"lib{part}") and path.name.endswith(SUFFIXES):
            return path
    raise LlamaCppError(f"{folder} lacks {part}")
