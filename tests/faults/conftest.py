"""Where the attempts of a long sweep landed is kept beside the results: FAULTS_LOG names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import FakeHub, taken_for_the_hub


@pytest.fixture(scope="session")
def record_landing() -> Callable[[str, str, str], None]:
    """Append what an attempt hit to the file that FAULTS_LOG names, where it is set."""
    path = os.environ.get("FAULTS_LOG")

    def record(kind: str, name: str, landed: str) -> None:
        if path:
            with Path(path).open("a") as file:
                file.write(json.dumps({"kind": kind, "case": name, "landed": landed}) + "\n")

    return record


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A fake Hub that this process and its children take for the real one, with a login that may write."""
    from huggingface_hub.utils import close_session

    server = FakeHub()
    taken_for_the_hub(server.endpoint, monkeypatch.setattr, monkeypatch.setenv)
    # How long huggingface_hub waits between its own attempts is not what is asked here.
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=server.slept.append))
    monkeypatch.setattr("tunesmith.publish.push.sleep", server.slept.append)
    close_session()
    yield server
    server.close()
    close_session()
