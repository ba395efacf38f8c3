"""The process in which llama.cpp runs: whatever a file does to it ends there.

`python -m tunesmith.export.llama_child` reads one request as JSON from stdin, and writes one answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.errors import ModelError
from tunesmith.export.divergence import Compared, compared
from tunesmith.export.importance import Importance
from tunesmith.export.llama_cpp import GgufModel, Library, LlamaCppError
from tunesmith.export.tensor_check import tensors_not_quantized


def quantize(library: Library, request: dict[str, Any]) -> dict[str, Any]:
    """Write a copy of a GGUF file in another precision."""
    source, target = Path(request["source"]), Path(request["target"])
    library.quantize(source, target, request["kind"], request["threads"], _importance(request))
    return {}


def importance(library: Library, request: dict[str, Any]) -> dict[str, Any]:
    """Read rows of token ids, and write how much each column matters to the .npz file `imatrix`."""
    rows = request["rows"]
    model = GgufModel(library, Path(request["model"]))
    try:
        heard = Importance(library)
        model.open(max(map(len, rows)), request["threads"], heard.callback)
        for ids in rows:
            model.read(ids)
        matrices = heard.matrices()
    finally:
        model.close()
    np.savez(request["imatrix"], **matrices)
    return {"num_matrices": len(matrices)}


def differing(library: Library, request: dict[str, Any]) -> dict[str, Any]:
    """Names of tensors of a quantised file that aren't what ggml makes of the file that it was made from."""

    weights = _importance(request) or {}

    def quantized(name: str, values: np.ndarray, kind: Any) -> bytes | None:
        return library.quantized(values, int(kind), weights.get(name))

    return {"tensors": tensors_not_quantized(Path(request["source"]), Path(request["target"]), quantized)}


def _importance(request: dict[str, Any]) -> dict[str, np.ndarray] | None:
    if not request["imatrix"]:
        return None
    with np.load(request["imatrix"]) as stored:
        return {name: np.ascontiguousarray(stored[name], np.float32) for name in stored.files}


def measure(library: Library, request: dict[str, Any]) -> dict[str, Any]:
    """What a GGUF file says of itself, and how it reads, predicts and answers.

    `texts` are tokenised; `rows` are token ids with the first position to compare, whose reference
    distributions (log-probabilities, fp32, one row a position) lie in the file `reference`; `prompts` are
    token ids to answer greedily with up to `max_new_tokens`. `adapter` is a LoRA adapter to apply, or null.
    """
    model = GgufModel(library, Path(request["model"]))
    try:
        reply: dict[str, Any] = {
            "vocab_size": model.vocab_size,
            "special_tokens": model.special_tokens(),
            "adds_bos": model.adds_bos(),
            "chat_template": model.metadata("tokenizer.chat_template"),
            "ends": [token for token in request["end_tokens"] if model.ends_answers(token)],
            "ids": [model.tokenize(text, add_special=False, parse_special=True) for text in request["texts"]],
        }
        rows, prompts = request["rows"], request["prompts"]
        longest = max(
            [len(row["ids"]) for row in rows] + [len(ids) + request["max_new_tokens"] for ids in prompts],
            default=0,
        )
        if longest:
            model.open(longest, request["threads"])
        if request["adapter"]:
            model.apply_adapter(Path(request["adapter"]))
        reply["compared"] = _compared(model, rows, request["reference"], request["num_tokens"]).as_dict()
        reply["answers"] = [model.greedy(ids, request["max_new_tokens"]) for ids in prompts]
        return reply
    finally:
        model.close()


def _compared(model: GgufModel, rows: list[dict[str, Any]], reference: str, num_tokens: int) -> Compared:
    total, at = Compared(), 0
    expected = np.load(reference, mmap_mode="r") if rows else None
    for row in rows:
        logits = model.logits(row["ids"], row["first"])[:-1, :num_tokens]
        here = expected[at : at + len(logits)] if expected is not None else logits
        total += compared(here, logits, np.array(row["ids"][row["first"] + 1 :]))
        at += len(logits)
    return total


_REQUESTS = {"quantize": quantize, "importance": importance, "differing": differing, "measure": measure}


def main() -> int:
    """Answer the request on stdin. What libraries print goes to stderr."""
    answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    try:
        library = Library(Path(request["folder"]))
        reply = _REQUESTS[request["do"]](library, request)
    except (LlamaCppError, ModelError) as error:
        reply = {"error": str(error)}
    with contextlib.suppress(BrokenPipeError), answer_to:
        json.dump(reply, answer_to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
