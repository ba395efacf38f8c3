# /// script
# requires-python = ">=3.11"
# dependencies = ["tunesmith[train,gguf]"]
#
# [tool.uv.sources]
# tunesmith = { path = "..", editable = true }
# ///
"""A trained model as GGUF files for llama.cpp, Ollama and LM Studio, each compared with what was trained.

    uv run scripts/convert_to_gguf.py ADAPTER_OR_MODEL [BASE] [--quantize F16,Q8_0,Q4_K_M] [--out FOLDER]
    ADAPTER_MODEL=... BASE_MODEL=... [OUTPUT_REPO=OWNER/NAME] uv run scripts/convert_to_gguf.py

ADAPTER_MODEL is a run, or a folder or Hub id with a LoRA adapter or a whole model; BASE_MODEL is needed
where the adapter doesn't name its base. OUTPUT_REPO is where a run goes, with its card and these files.
Whatever else is given goes to `tunesmith export`. Exit code 0: the files answer like the model; 1: one
doesn't, and nothing is published.
"""

import itertools
import os
import sys
from pathlib import Path

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
    repo = os.environ.get("OUTPUT_REPO")
    if repo and (
        base or not any((folder / "run.json").is_file() for folder in (Path(model), Path("runs", model)))
    ):
        print(f"OUTPUT_REPO is for a run; send others with: hf upload {repo} exports/NAME", file=sys.stderr)
        return 2
    code = run(["export", *([base, "--adapter", model] if base else [model]), *flags])
    return code or (run(["publish", model, repo]) if repo else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
