"""What every benchmark row says of itself: date, machine, load at the start, versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

# Elsewhere on a machine that keeps only what lies in one folder.
RESULTS_PATH = Path(os.environ.get("BENCH_RESULTS", Path(__file__).parent / "results"))
IDLE_LOAD = 0.3
PACKAGES = ("tunesmith", "torch", "transformers", "trl", "peft")


def conditions() -> dict[str, Any]:
    """Facts that a figure needs to be repeated."""
    try:
        asked = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git there: the commit is named where the rows are taken in
        commit = ""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 2),
        "commit": commit,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # Tunesmith run from its source tree
        return None


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows that results/NAME.jsonl holds."""
    path = RESULTS_PATH / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def wait_for_idle(limit_s: float = 300) -> None:
    """Wait until the one-minute load is below 0.3, or `limit_s` is over."""
    deadline = time.monotonic() + limit_s
    while os.getloadavg()[0] >= IDLE_LOAD and time.monotonic() < deadline:
        time.sleep(5)


def append(name: str, row: dict[str, Any]) -> None:
    """Add a row to results/NAME.jsonl and show it."""
    RESULTS_PATH.mkdir(exist_ok=True)
    with (RESULTS_PATH / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print({key: value for key, value in row.items() if key != "versions"}, flush=True)
