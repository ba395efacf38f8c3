"""Where the attempts of a long sweep landed is kept beside the results: FAULTS_LOG names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def record_landing() -> Callable[[str, str, str], None]:
    """Append what an attempt hit to the file that FAULTS_LOG names, where it is set."""
    path = os.environ.get("FAULTS_LOG")

    def record(kind: str, name: str, landed: str) -> None:
        if path:
            with Path(path).open("a") as file:
                file.write(json.dumps({"kind": kind, "case": name, "landed": landed}) + "\n")

    return record
