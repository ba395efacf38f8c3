"""Sends one checkpoint: started as `python -m tunesmith.publish.sending`, by the uploader of a training.

A process of its own, so that the search for secrets takes no time of the thread that trains, and one that can
be ended at any moment. Takes one JSON object on stdin and gives one on stdout; it ends when its stdin does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.publish.causes import Cause, cause_of
from tunesmith.publish.remote import Sender, send


def main() -> None:
    """Read what to send, send it, and tell how that went."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(5)
    answer = json.dumps(answered(request))
    sys.stdout.write(answer + "\n")
    sys.stdout.flush()


def answered(request: dict[str, Any]) -> dict[str, Any]:
    """{"cause": None} when what was asked is on the Hub; else the cause as a table."""
    sender = Sender(**request["sender"])
    try:
        send(Path(request["stage"]), request["repo_id"], request["step"], request["best"], sender)
    except Exception as error:  # whatever it is, it is told by the process that trains (test_remote.py)
        cause = cause_of(error, request["repo_id"])
        return {
            "cause": asdict(cause or Cause(f"it failed with {type(error).__name__}: {error}", passes=False))
        }
    return {"cause": None}


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
