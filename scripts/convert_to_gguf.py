# /// script
# requires-python = ">=3.11"
# dependencies = ["tunesmith[train,gguf]"]
#
# [tool.uv.sources]
# tunesmith = { path = "..", editable = true }
# ///
"""A trained model as GGUF files for llama.cpp, Ollama and LM Studio, each compared with what was trained.

    uv run scripts/convert_to_gguf.py ADAPTER_OR_MODEL [BASE] [--quantize F16,Q8_0,Q4_K_M] [--out FOLDER]
    ADAPTER_MODEL=... BASE_MODEL=... uv run scripts/convert_to_gguf.py

ADAPTER_MODEL is a run, or a folder or Hub id with a LoRA adapter or a whole model; BASE_MODEL is needed
where the adapter doesn't name its base. Whatever else is given goes to `tunesmith export`. Exit code 0: the
files answer like the model; 1: one doesn't.
"""

import itertools
import os
import sys

from tunesmith.cli.app import run

USUAL = "F16,Q8_0,Q5_K_M,Q4_K_M"


def main(arguments: list[str]) -> int:
    """The exit code of the export."""
    named = list(itertools.takewhile(lambda each: not each.startswith("-"), arguments))
    flags = arguments[len(named) :]
    model, base, *_ = [*named, None, None]
    model = model or os.environ.get("ADAPTER_MODEL")
    base = base or os.environ.get("BASE_MODEL")
    if not model or "--help" in arguments:
        print(__doc__.strip(), file=sys.stderr)
        return 0 if model else 2
    if not any(each.partition("=")[0] == "--quantize" for each in flags):
        flags = ["--quantize", USUAL, *flags]
    return run(["export", *([base, "--adapter", model] if base else [model]), *flags])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
