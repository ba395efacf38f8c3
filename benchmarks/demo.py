"""`tunesmith demo` for three seeds: score before and after, wall time, peak memory.

    python benchmarks/demo.py [--seeds 1 2 3]

About five minutes a seed on two idle cores. Rows go to results/demo.jsonl; a seed that stands there for this
commit is skipped.
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
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    for seed in parser.parse_args().seeds:
        if seed in done_seeds(conditions()["commit"]):
            continue
        wait_for_idle()
        row = conditions()
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            command = [
                sys.executable,
                "-m",
                "tunesmith",
                "demo",
                "--seed",
                str(seed),
                "--json",
                "--run-dir",
                "run",
            ]
            with Path(folder, "progress.txt").open("w") as progress:
                run = subprocess.run(
                    command, cwd=folder, stdout=subprocess.PIPE, stderr=progress, text=True, check=True
                )
            wall_s = round(time.monotonic() - began, 1)
        document = json.loads(run.stdout)
        kept = {key: document[key] for key in ("seed", "num_rows", "before", "after", "duration_s")}
        # The largest resident set of any child so far; every seed is the same job.
        peak_gib = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2)
        append("demo", {**row, **kept, "wall_s": wall_s, "peak_memory_gib": peak_gib})


if __name__ == "__main__":
    main()
