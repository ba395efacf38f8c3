# /// script
# requires-python = ">=3.11"
# dependencies = ["tunesmith"]
#
# [tool.uv.sources]
# tunesmith = { path = "..", editable = true }
# ///
"""Memory, time and cost of a training before it is paid for, and the timeout to ask a job service for.

    uv run scripts/estimate_cost.py --model MODEL --dataset DATASET --hardware a10g-large [--epochs 3]
    uv run scripts/estimate_cost.py --model MODEL --dataset-size 5000 [--mean-tokens 400] --hardware all

MODEL is a Hub id or a folder with a config.json. With --dataset-size nothing of the data is read. Whatever
else is given goes to `tunesmith plan`: --method dpo, --tuning full, --max-steps 500 (tunesmith plan --help
lists it). Exit code 0: it fits; 3: it doesn't.
"""

import sys

from tunesmith.cli.app import run

# The ancestor's flags, by the names that the package has.
RENAMED = {"--dataset-size": "--num-rows", "--epochs": "--num-train-epochs"}
# Tokens of a row that nobody counted: a short chat.
USUAL_TOKENS = "400"


def main(arguments: list[str]) -> int:
    """The exit code of the plan."""
    if not arguments or "--help" in arguments:
        print(__doc__.strip(), file=sys.stderr)
        return 0 if arguments else 2
    given = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        given.append(RENAMED.get(flag, flag) + equals + value)
    flags = {argument.partition("=")[0] for argument in given}
    if "--num-rows" in flags and "--mean-tokens" not in flags:
        given += ["--mean-tokens", USUAL_TOKENS]
        print(f"rows are taken for {USUAL_TOKENS} tokens long; --mean-tokens says otherwise", file=sys.stderr)
    return run(["plan", *given])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
