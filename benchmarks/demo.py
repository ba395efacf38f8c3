"""`tunesmith demo` for three seeds: score before and after, wall time, peak memory.

    python benchmarks/demo.py [--method sft] [--seeds 42 1 2]

Minutes a seed on two idle cores. Rows go to results/demo.jsonl, what the demo printed to
results/demo-METHOD-seed-N.txt; a method and seed that stand there for this commit are skipped.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import RESULTS_PATH, append, conditions, rows_of, wait_for_idle


def done_seeds(method: str, commit: str) -> set[int]:
    """The seeds that were measured on `commit`."""
    rows = [row for row in rows_of("demo") if row["commit"] == commit]
    return {row["seed"] for row in rows if row.get("method", "sft") == method}


def main() -> None:
    """Run the demo once a seed."""
    RESULTS_PATH.mkdir(exist_ok=True)
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--method", default="sft")
    options = parser.parse_args()
    for seed in options.seeds:
        if seed in done_seeds(options.method, conditions()["commit"]):
            continue
        wait_for_idle()
        row = conditions()
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            command = [
                sys.executable, "-m", "tunesmith", "demo", "--method", options.method, "--seed", str(seed),
                "--run-dir", "run",
            ]  # fmt: skip
            with (RESULTS_PATH / f"demo-{options.method}-seed-{seed}.txt").open("w") as output:
                subprocess.run(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, check=True)
            wall_s = round(time.monotonic() - began, 1)
            results = json.loads(Path(folder, "run", "run.json").read_text())["results"]
        # The largest resident set of any child so far; every seed is the same job.
        peak_gib = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2)
        append(
            "demo",
            {
                **row,
                "method": options.method,
                "seed": seed,
                **results,
                "wall_s": wall_s,
                "peak_memory_gib": peak_gib,
            },
        )


if __name__ == "__main__":
    main()
