# /// script
# requires-python = ">=3.11"
# dependencies = ["tunesmith"]
#
# [tool.uv.sources]
# tunesmith = { path = "..", editable = true }
# ///
"""Check every row of a data set before any training; exit code 0 says fit, 1 not fit.

    uv run scripts/validate_dataset.py DATASET METHOD [options]

DATASET is a Hub id, a file or a folder; METHOD is sft, dpo, reward, kto, grpo or rloo. Everything after them
goes to `tunesmith validate`: --model MODEL, --fix clean.jsonl, --map prompt=question ... (--help lists them).
"""

import sys

from tunesmith.cli.app import run


def main(arguments: list[str]) -> int:
    """The exit code of the validation."""
    if not arguments or "--help" in arguments:
        print(__doc__.strip(), file=sys.stderr)
        return run(["validate", "--help"]) if arguments else 2
    dataset, *rest = arguments
    named = rest[:1] if rest and not rest[0].startswith("-") else []
    return run(["validate", dataset, *(["--method", *named] if named else []), *rest[len(named) :]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
