"""The checkpoints of a training sent to the Hub as they come, beside the steps, which never wait for it."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.config.run_config import Hub
from tunesmith.errors import first_line
from tunesmith.publish.causes import Cause
from tunesmith.publish.patience import upload_limit_s
from tunesmith.publish.remote import Sender
from tunesmith.publish.staging import STAGE, put_aside, put_run_aside
from tunesmith.runs.checkpoints import best_step
from tunesmith.runs.folder import RunFolder

# After a failure, doubled each time.
FIRST_WAIT_S, LONGEST_WAIT_S = 15.0, 600.0
_PENDING = "checkpoint"


@dataclass(frozen=True)
class _Job:
    """A run and its newest checkpoint, put aside."""

    stage: Path
    step: int
    best: int | None


class Uploader:
    """Sends the newest checkpoint of `run` that there is; one at a time, older ones are left out.

    What fails is told once with its cause (`tell`), noted in run.json, and tried again.
    """

    def __init__(self, run: RunFolder, hub: Hub, tell: Callable[[str], None]) -> None:
        self._run = run
        self._hub = hub
        self._tell = tell
        self.sender = Sender.of(run)
        self._changed = threading.Condition()
        self._next: _Job | None = None
        self._is_closing = self._is_over = False
        self._newest: int | None = None
        self._sent: int | None = None
        self._told: str | None = None
        self._process: subprocess.Popen[str] | None = None
        # The longest that one took, in seconds; 0 before the first.
        self.longest_s = 0.0
        shutil.rmtree(run.path / STAGE, ignore_errors=True)
        if newest := run.newest_checkpoint():
            # Whether the process before still sent it isn't known; what the Hub has isn't sent again.
            self.kept(*newest, best_step(newest[0]))
        self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
        self._thread.start()

    @property
    def is_behind(self) -> bool:
        """Whether the newest checkpoint isn't on the Hub."""
        return self._newest != self._sent

    def kept(self, checkpoint: Path, step: int, best: int | None) -> None:
        """Take note of a checkpoint that was written; the best one is sent along where it is another."""
        job = _Job(self._run.path / STAGE / f"{step}-{secrets.token_hex(4)}", step, best)
        try:
            put_run_aside(self._run.path, job.stage)
            for number in {step, best} - {None}:
                put_aside(checkpoint.with_name(f"checkpoint-{number}"), job.stage / f"checkpoint-{number}")
        except OSError as error:  # no room: the checkpoint itself is there
            self._newest = step
            _remove(job)
            self._tell(f"the checkpoint of step {step} isn't sent to the Hub: {first_line(error)}")
            return
        with self._changed:
            left_out, self._next, self._newest = self._next, job, step
            self._changed.notify_all()
        _remove(left_out)

    def close(self, within_s: float) -> bool:
        """Try once more to send the newest checkpoint, and end; True when it is on the Hub."""
        self._mark(self.is_behind)  # also for the case that this process is killed while it waits
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(max(0.0, within_s))
        with self._changed:
            self._is_over = True
            if self._process is not None:
                self._process.kill()
            self._changed.notify_all()
        self._thread.join()
        self._mark(self.is_behind)
        shutil.rmtree(self._run.path / STAGE, ignore_errors=True)
        return not self.is_behind

    def _mark(self, is_pending: bool) -> None:
        with suppress(OSError):  # a full disk: the training says so
            self._run.mark_pending(_PENDING, is_pending)

    def _note_sent(self) -> None:
        if not self.sender.was_here:
            self.sender = replace(self.sender, was_here=True)
            with suppress(OSError):
                self._run.update(sent_by=self.sender.process)
        self._mark(self.is_behind)

    def _work(self) -> None:
        wait_s, failure = FIRST_WAIT_S, None
        while (job := self._taken(failure, wait_s)) is not None:
            last_try = self._is_closing
            cause = self._send(job)
            if cause is None:
                self._sent, wait_s, failure, self._told = job.step, FIRST_WAIT_S, None, None
                self._note_sent()
                _remove(job)
                continue
            if self._is_over:
                return
            self._note(cause, job)
            if last_try:
                return
            wait_s = min(wait_s * 2, LONGEST_WAIT_S) if failure else FIRST_WAIT_S
            failure = cause
            with self._changed:
                if self._next is None:
                    self._next = job
                    continue
            _remove(job)

    def _taken(self, failure: Cause | None, wait_s: float) -> _Job | None:
        """The newest checkpoint, once it is time to send one; None when none is to come."""
        with self._changed:
            if failure is not None:
                limit_s = max(wait_s, failure.wait_s or 0.0) if failure.passes else None
                self._changed.wait_for(lambda: self._is_closing, limit_s)
            self._changed.wait_for(lambda: self._next is not None or self._is_closing)
            job, self._next = self._next, None
            return None if self._is_over else job

    def _note(self, cause: Cause, job: _Job) -> None:
        self._mark(True)
        if self._told != cause.said:
            self._told = cause.said
            then = "it is tried again" if cause.passes else "it is tried once more at the end"
            self._tell(
                f"the checkpoint of step {job.step} isn't on the Hub: {cause.said}; training goes on, {then}"
                + (f" ({cause.fix})" if cause.fix else "")
            )

    def _send(self, job: _Job) -> Cause | None:
        began = time.monotonic()
        try:
            answer = self._asked(self._request(job))
        except (OSError, ValueError, TypeError, LookupError) as error:  # no process, no room, no answer
            answer = _broken_off(first_line(error))
        if answer["cause"] is None:
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            return None
        return Cause(**answer["cause"])

    def _request(self, job: _Job) -> dict[str, Any]:
        num_bytes = sum(path.stat().st_size for path in job.stage.rglob("*") if path.is_file())
        return {
            "limit_s": upload_limit_s(num_bytes),
            "stage": str(job.stage.resolve()),
            "repo_id": self._hub.repo_id,
            "public": self._hub.public,
            "step": job.step,
            "best": job.best,
            "sender": asdict(self.sender),
        }

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._run.log_path.open("a", encoding="utf-8") as log, self._changed:
            if self._is_over:
                return _broken_off("the run ended")
            self._process = process = subprocess.Popen(
                # -P: a file of the user's that bears a module's name isn't run in its place.
                [sys.executable, "-P", "-m", "tunesmith.publish.sending"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True,  # Ctrl-C is for the training, which still sends its last checkpoint
            )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        limit = threading.Timer(request["limit_s"], process.kill)
        limit.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()  # it stays open: its end tells that this process is gone
            answer = next((line for line in process.stdout if line.startswith('{"cause"')), "")
        except OSError:  # it ended before it read
            answer = ""
        limit.cancel()
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        return dict(json.loads(answer)) if answer.endswith("\n") else _broken_off("it was broken off")


def _broken_off(why: str) -> dict[str, Any]:
    return {"cause": asdict(Cause(why, passes=True))}


def _remove(job: _Job | None) -> None:
    if job is not None:
        shutil.rmtree(job.stage, ignore_errors=True)
