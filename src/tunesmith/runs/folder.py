"""RunFolder: `runs/NAME/` with run.json, metrics.jsonl, checkpoints/, model/ and log.txt."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from tunesmith import __version__
from tunesmith.config.run_config import RunConfig
from tunesmith.errors import RunFolderError
from tunesmith.runs import checkpoints
from tunesmith.runs.files import append_json_line, read_json_lines, write_json_whole

RUN_SCHEMA = "tunesmith-run/1"
RUNS_ROOT = Path("runs")
# What may be left to send: the model, the last checkpoint.
PUSH, CHECKPOINT = "push", "checkpoint"
# What says that a process works in the folder (runs/lock.py).
LOCK = ".lock"
# What is being fetched into a run's folder, before it is there.
FETCHING = ".fetching"
REPORTED_PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "trackio",
    "huggingface_hub",
)


class RunFolder:
    """One run on disk. `record` is the content of run.json; change it through `update`.

    Of several processes that work on a run the first (`rank` 0) writes; for the others the same calls write
    nothing.
    """

    def __init__(self, path: Path, record: dict[str, Any], rank: int = 0) -> None:
        self.path = path
        self.record = record
        self.rank = rank
        self._changing = threading.RLock()

    @property
    def writes(self) -> bool:
        """Whether this process writes the run."""
        return self.rank == 0

    @classmethod
    def create(cls, path: Path, record: dict[str, Any]) -> RunFolder:
        """A new folder at `path` with its run.json written.

        Raises:
            RunFolderError: the path holds a run or other files already, or can't be written.
        """
        refuse_taken(path)
        now = _now()
        whole = {
            "schema": RUN_SCHEMA,
            "id": secrets.token_hex(8),
            "name": path.name,
            "status": "running",
            "created_at": now,
            "updated_at": now,
            "tunesmith": __version__,
            "versions": package_versions(),
            "git": _git_state(),
            "process": _this_process(),
            **record,
        }
        made = [each for each in (path, *path.parents) if not each.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_json_whole(path / "run.json", whole)
        except OSError as error:
            for each in made:
                with suppress(OSError):  # not made, or not empty
                    each.rmdir()
            raise unwritable(path, error) from None
        return cls(path, whole)

    @classmethod
    def open(cls, path: Path, rank: int = 0) -> RunFolder:
        """The run at `path`, or named `path` under runs/.

        Raises:
            RunFolderError: there is no run, or its run.json can't be read.
        """
        candidates = [path, RUNS_ROOT / path]
        folder = next((each for each in candidates if _is_file(each / "run.json")), None)
        if folder is None:
            raise RunFolderError(
                f"there is no run at {path}", where=str(path), fix="tunesmith runs lists them"
            )
        try:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(
                f"{folder / 'run.json'} can't be read: {error}",
                where=str(folder),
                fix="put run.json back from a copy, or remove the folder",
            ) from None
        if not isinstance(record, dict) or record.get("schema") != RUN_SCHEMA:
            raise RunFolderError(
                f"{folder / 'run.json'} was not written by this Tunesmith",
                where=str(folder),
                fix="read it with the version that wrote it",
            )
        return cls(folder, record, rank)

    def update(self, **changes: Any) -> None:
        """Change keys of run.json and write it whole."""
        with self._changing:
            self.record |= changes | {"updated_at": _now()}
            if self.writes:
                write_json_whole(self.path / "run.json", self.record)

    def config(self) -> RunConfig:
        """The configuration that the run began with.

        Raises:
            RunFolderError: this version of Tunesmith can't read it.
        """
        try:
            return RunConfig.model_validate(self.record.get("config"))
        except ValueError as error:
            raise RunFolderError(
                f"{self.path / 'run.json'} holds no configuration that this Tunesmith can use: "
                + "; ".join(str(error).splitlines()[1:3]),
                where=str(self.path),
                fix=f"it was written by Tunesmith {self.record.get('tunesmith')}; take that version",
            ) from None

    def pending(self) -> list[str]:
        """What is to be sent and isn't there yet: push (the model), checkpoint."""
        return list(self.record.get("pending") or [])

    def mark_pending(self, what: str, is_pending: bool) -> None:
        """Note in run.json that something is still to be sent, or that it is there."""
        left = [each for each in self.pending() if each != what] + [what] * is_pending
        if left != self.pending():
            self.update(pending=left)

    def mark_running(self) -> None:
        """This process works on the run now."""
        self.update(
            id=self.record.get("id") or secrets.token_hex(8),  # early versions gave none
            status="running",
            process=_this_process(),
            versions=package_versions(),
            stopped_by=None,
            error=None,
        )

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        if self.writes:
            append_json_line(self.path / "metrics.jsonl", row)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, torn lines left out."""
        return read_json_lines(self.path / "metrics.jsonl")

    def append_completion(self, row: dict[str, Any]) -> None:
        """Add a line to completions.jsonl: an answer that the model gave in training, with its rewards."""
        if self.writes:
            append_json_line(self.path / "completions.jsonl", row)

    def read_completions(self) -> list[dict[str, Any]]:
        """The rows of completions.jsonl, torn lines left out."""
        return read_json_lines(self.path / "completions.jsonl")

    @property
    def checkpoints_path(self) -> Path:
        """TRL's output_dir."""
        return self.path / "checkpoints"

    @property
    def model_path(self) -> Path:
        """The trained model or adapter; exists only when the run is done."""
        return self.path / "model"

    @property
    def base_path(self) -> Path:
        """The base that the adapter in model/ belongs to, where the run made it: an earlier run's, merged."""
        return self.path / "base"

    @property
    def log_path(self) -> Path:
        """What the libraries below printed, in this process."""
        return self.path / (f"log-{self.rank}.txt" if self.rank else "log.txt")

    def newest_checkpoint(self) -> tuple[Path, int] | None:
        """The newest checkpoint, by names and sizes, and its step, or None."""
        found = checkpoints.newest(self.checkpoints_path)
        return (found.path, found.step) if found else None

    def status(self) -> str:
        """running, done, stopped, failed, or killed: running on this machine, but the process is gone."""
        status = str(self.record.get("status"))
        process = self.record.get("process")
        if status == "running" and isinstance(process, dict) and not _may_live(process):
            return "killed"
        return status

    def discard(self) -> None:
        """Remove the folder, and `runs/` with it when it was the last one there."""
        if not self.writes:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.parent == RUNS_ROOT and RUNS_ROOT.is_dir() and not any(RUNS_ROOT.iterdir()):
            RUNS_ROOT.rmdir()


def refuse_taken(path: Path) -> None:
    """Make sure that a new run may be written at `path`.

    Raises:
        RunFolderError: the path is a file, or a folder that holds a run or anything else.
    """
    try:
        exists = path.exists()
    except OSError as error:  # a name too long, a folder that may not be read
        raise RunFolderError(
            f"{path} can't be a run folder: {error.strerror}", where=str(path), fix="choose another --run-dir"
        ) from None
    if exists and not path.is_dir():
        raise RunFolderError(
            f"{path} is a file, not a folder", where=str(path), fix="choose another --run-dir"
        )
    if (path / "run.json").is_file():
        run = RunFolder.open(path)
        raise RunFolderError(
            f"{path} holds a run that is {run.status()}",
            where=str(path),
            fix="choose another --run-dir"
            if run.status() in ("done", "running")
            else f"tunesmith resume {path}, or choose another --run-dir",
        )
    # A kill while the first run.json was written leaves no more than these.
    begun = (LOCK, ".run.json.", FETCHING)
    if path.is_dir() and any(not each.name.startswith(begun) for each in path.iterdir()):
        raise RunFolderError(
            f"{path} is not empty and holds no run", where=str(path), fix="choose another --run-dir"
        )


def unwritable(path: Path, error: Exception) -> RunFolderError:
    """The sentence for a run folder that a file can't be written to."""
    return RunFolderError(
        f"the run folder {path} can't be written: {getattr(error, 'strerror', None) or error}",
        where=str(path),
        fix="choose another --run-dir",
    )


def new_run_path(method: str, model: str) -> Path:
    """A free path under runs/ named after method, model and date."""
    name = re.split(r"[/\\]", model.rstrip("/\\"))[-1].lower()
    short = re.sub(r"[^a-z0-9.]+", "-", name)[:60].strip("-.") or "model"
    base = f"{method}-{short}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    path, number = RUNS_ROOT / base, 2
    while path.exists():
        path, number = RUNS_ROOT / f"{base}-{number}", number + 1
    return path


def list_runs(root: Path = RUNS_ROOT) -> Iterator[RunFolder]:
    """The readable runs under `root`, newest first."""
    runs = []
    for path in root.glob("*/run.json"):
        try:
            runs.append(RunFolder.open(path.parent))
        except RunFolderError:
            continue
    yield from sorted(runs, key=_age, reverse=True)


def package_versions() -> dict[str, str | None]:
    """Installed versions of the packages a run depends on; None where one is missing."""
    versions: dict[str, str | None] = {}
    for name in REPORTED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _age(run: RunFolder) -> tuple[str, str]:
    return str(run.record.get("created_at")), run.path.name


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long
        return False


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    started_at = psutil.Process(pid).create_time()
    return {"pid": pid, "started_at": started_at, "host": socket.gethostname()}


def _may_live(process: dict[str, Any]) -> bool:
    """False when the process is known to be gone; another machine's can't be known."""
    if process.get("host") != socket.gethostname() or not isinstance(process.get("pid"), int):
        return True
    try:
        living = psutil.Process(process["pid"])
        if living.status() == psutil.STATUS_ZOMBIE:
            return False
        age = float(living.create_time())
    except psutil.AccessDenied:
        return True
    except (psutil.Error, ValueError, OverflowError):
        return False
    started_at = process.get("started_at")
    # The system gives numbers of dead processes to new ones. A minute is more than clocks are set right by.
    return not isinstance(started_at, float) or abs(age - started_at) < 60


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the working folder's repository, or None outside one."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(dirty.stdout.strip())}
