"""One import, then a fork for each command: a child that can be killed, cut short or refused at any write.

Started as `python zygote.py`; takes one JSON object a line and answers with one.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

ERRNOS = {"ENOSPC": 28, "EDQUOT": 122, "EIO": 5}


class Shim:
    """Counts what a process does to files under a `checkpoints` folder, and interferes with one of them.

    `do` is kill, half (of a tensor file, then kill), SIGTERM, SIGINT or the name of an error number.
    """

    def __init__(self, fault: dict[str, Any], log: Path) -> None:
        self._at, self._do, self._log = fault.get("at"), fault.get("do"), log
        self._times = fault.get("times", 1)
        self._seen = 0
        self._inside = False

    def install(self) -> None:
        import safetensors.torch

        sys.addaudithook(self._heard)
        fsync, serialize = os.fsync, safetensors.torch.serialize_file

        def whole(descriptor: int) -> None:
            self._met("fsync", Path(f"/proc/self/fd/{descriptor}").readlink())
            fsync(descriptor)

        def written(tensors: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            self._met("tensors", path)
            serialize(tensors, path, *args, **kwargs)
            self._met("tensors written", path)

        os.fsync, safetensors.torch.serialize_file = whole, written

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if self._inside:
            return
        if event == "open":
            _, mode, flags = args
            writes = any(each in (mode or "") for each in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            if writes and not isinstance(args[0], int):
                self._met("open", args[0])
        elif event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            self._met(event, args[0])

    def _met(self, event: str, path: Any) -> None:
        name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if "/checkpoints" not in name and not name.startswith("checkpoints"):
            return
        number, self._seen = self._seen, self._seen + 1
        self._inside = True
        try:
            with self._log.open("a") as file:
                file.write(json.dumps([number, event, name]) + "\n")
                file.flush()
            if self._at is not None and self._at <= number < self._at + self._times:
                self._interfere(name)
        finally:
            self._inside = False

    def _interfere(self, name: str) -> None:
        if self._do in ERRNOS:
            raise OSError(ERRNOS[self._do], os.strerror(ERRNOS[self._do]), name)
        if self._do in ("SIGTERM", "SIGINT"):
            os.kill(os.getpid(), getattr(signal, self._do))
            return
        if self._do == "half" and Path(name).is_file():
            os.truncate(name, Path(name).stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)


def _child(request: dict[str, Any]) -> None:
    os.setsid()
    os.chdir(request["cwd"])
    for stream, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        descriptor = os.open(request["out"] + name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, stream)
    if request.get("hub"):
        from hub_server import taken_for_the_hub

        taken_for_the_hub(request["hub"], setattr, os.environ.__setitem__)
    from tunesmith.cli.app import run

    if request.get("fault") is not None:
        Shim(request["fault"], Path(request["out"] + "events.jsonl")).install()
    code = run(request["args"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(request: dict[str, Any]) -> dict[str, Any]:
    pid = os.fork()
    if not pid:
        try:
            _child(request)
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(99)
    began, kill_after = time.monotonic(), request.get("kill_after_s")
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - began}
        if kill_after is not None and time.monotonic() - began > kill_after:
            os.kill(pid, getattr(signal, request.get("kill_with", "SIGKILL")))
            kill_after = None
        if time.monotonic() - began > request.get("deadline_s", 120):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def main() -> None:
    """Import what a training needs, then serve."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for module in ("cli.app", "cli.going_on", "train.captured", "train.sampling", "train.training"):
        importlib.import_module(f"tunesmith.{module}")
    from tunesmith.train.trainers import TRAINERS

    for name in ("sft", "dpo", "grpo"):
        TRAINERS[name].classes()
    for line in sys.stdin:
        answers.write(json.dumps(_run(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
