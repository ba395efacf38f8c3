"""What llama.cpp is asked to do, each time in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.export.binaries import library_folder


def ask_llama_cpp(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request of `llama_child.py`; `error` where llama.cpp ended or refused."""
    request = request | {"folder": str(library_folder())}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tunesmith.export.llama_child"],
        input=json.dumps(request), capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if done.returncode or not done.stdout:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"error": f"llama.cpp ended with {done.returncode}: {last[:200]}"}
    return dict(json.loads(done.stdout))


def quantize(source: Path, target: Path, kind: str, *, threads: int, imatrix: Path | None = None) -> None:
    """Write a copy of a GGUF file in another precision, weighed by an importance matrix where there is one.

    Raises:
        ModelError: llama.cpp can't.
    """
    request = {"do": "quantize", "source": str(source), "target": str(target), "kind": kind}
    reply = ask_llama_cpp(request | {"threads": threads, "imatrix": imatrix and str(imatrix)})
    if "error" in reply:
        needs = "it may need --imatrix DATA, or take another: " if imatrix is None else "take another: "
        raise ModelError(
            f"{source.name} can't be quantised to {kind}: {reply['error']}",
            where="--quantize",
            fix=f"{needs}--quantize Q8_0",
        )


def measure_importance(model: Path, rows: list[list[int]], target: Path, *, threads: int) -> None:
    """Have a model read rows of token ids, and write which columns of its weights matter into `target`.

    Raises:
        ModelError: llama.cpp can't.
    """
    request = {"do": "importance", "model": str(model), "rows": rows, "imatrix": str(target)}
    reply = ask_llama_cpp(request | {"threads": threads})
    if "error" in reply:
        raise ModelError(
            f"no importance matrix can be made of {model.name}: {reply['error']}",
            where="--imatrix",
            fix="leave --imatrix out",
        )


def differing(source: Path, target: Path, imatrix: Path | None) -> dict[str, Any]:
    """The `tensors` of a quantised file that aren't what ggml makes of the file that it was made from."""
    request = {"do": "differing", "source": str(source), "target": str(target)}
    return ask_llama_cpp(request | {"imatrix": imatrix and str(imatrix)})
