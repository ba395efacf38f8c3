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

RESULTS_PATH = Path(__file__).parent / "results"
IDLE_LOAD = 0.3
PACKAGES = ("tunesmith", "torch", "transformers", "trl", "peft")


def conditions() -> dict[str, Any]:
    """Facts that a figure needs to be repeated."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 2),
        "commit": commit.stdout.strip(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


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
