"""`tunesmith demo` for three seeds: score before and after, wall time, peak memory.

    python benchmarks/demo.py [--seeds 42 1 2]

About five minutes a seed on two idle cores. Rows go to results/demo.jsonl, what the demo printed to
results/demo-seed-N.txt; a seed that stands there for this commit is skipped.
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

from record import RESULTS_PATH, append, conditions, wait_for_idle


def done_seeds(commit: str) -> set[int]:
    """The seeds that were measured on `commit`."""
    path = RESULTS_PATH / "demo.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {row["seed"] for row in rows if row["commit"] == commit}


def main() -> None:
    """Run the demo once a seed."""
    RESULTS_PATH.mkdir(exist_ok=True)
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    for seed in parser.parse_args().seeds:
        if seed in done_seeds(conditions()["commit"]):
            continue
        wait_for_idle()
        row = conditions()
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            command = [sys.executable, "-m", "tunesmith", "demo", "--seed", str(seed), "--run-dir", "run"]
            with (RESULTS_PATH / f"demo-seed-{seed}.txt").open("w") as output:
                subprocess.run(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, check=True)
            wall_s = round(time.monotonic() - began, 1)
            results = json.loads(Path(folder, "run", "run.json").read_text())["results"]
        # The largest resident set of any child so far; every seed is the same job.
        peak_gib = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2)
        append("demo", {**row, "seed": seed, **results, "wall_s": wall_s, "peak_memory_gib": peak_gib})


if __name__ == "__main__":
    main()
