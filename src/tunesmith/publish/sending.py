"""Sends one checkpoint: started as `python -m tunesmith.publish.sending`, by the uploader of a training.

A process of its own, so that the search for secrets takes no time of the thread that trains, and one that can
be ended at any moment. Takes one JSON object on stdin and gives one on stdout; it ends when its stdin does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.publish.causes import Cause, cause_of
from tunesmith.publish.hub import check_rights
from tunesmith.publish.remote import Sender, send


def main() -> None:
    """Read what to send, send it, and tell how that went."""
    for number in (signal.SIGINT, signal.SIGTERM):  # Slurm sends them to every process of a job
        signal.signal(number, signal.SIG_IGN)
    # What a library prints is no answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(5)
    answer = json.dumps(answered(request))
    answers.write(answer + "\n")
    answers.flush()


def answered(request: dict[str, Any]) -> dict[str, Any]:
    """{"cause": None} when what was asked is on the Hub; else the cause as a table."""
    sender, repo_id = Sender(**request["sender"]), request["repo_id"]
    try:
        # Each time: somebody may have made it public since, or made it at all.
        cause = check_rights(repo_id, public=request["public"])
        if cause is None:
            send(Path(request["stage"]), repo_id, request["step"], request["best"], sender)
    except Exception as error:  # whatever it is, it is told by the process that trains (test_remote.py)
        cause = cause_of(error, repo_id)
        cause = cause or Cause(f"it failed with {type(error).__name__}: {error}", passes=False)
    return {"cause": asdict(cause) if cause else None}


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
