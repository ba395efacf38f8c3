"""One hierarchy of errors: each says what, where and the next command, and is also a standard exception."""

from __future__ import annotations


class TunesmithError(Exception):
    """An error meant for a person: `message` says what, `where` the place, `fix` the next thing to do."""

    code = "error"
    exit_code = 2

    def __init__(self, message: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.fix = fix

    def as_dict(self) -> dict[str, str | None]:
        """The `error` object of a `--json` document."""
        return {"code": self.code, "message": self.message, "where": self.where, "fix": self.fix}


class ConfigError(TunesmithError, ValueError):
    """A key or value of the configuration can't be used."""

    code = "config"


class DataError(TunesmithError, ValueError):
    """The dataset can't be read, or holds nothing that can be trained on."""

    code = "data"


class ModelError(TunesmithError, OSError):
    """The model or its tokenizer can't be loaded."""

    code = "model"


class DownloadError(TunesmithError, ConnectionError):
    """Something has to be fetched and can't be."""

    code = "download"


class DiskSpaceError(TunesmithError, OSError):
    """The disk has no room for what the run will write."""

    code = "disk-space"


class PlanError(TunesmithError, MemoryError):
    """The plan refuses the run: it doesn't fit, or takes more than its budget."""

    code = "plan"
    exit_code = 3


class MissingPackageError(TunesmithError, ImportError):
    """An optional package is needed and not installed."""

    code = "missing-package"


class VersionError(TunesmithError, ImportError):
    """An installed package is outside the range that Tunesmith works with."""

    code = "versions"


class RunFolderError(TunesmithError, OSError):
    """A run folder is missing, taken, or not in a state for what was asked."""

    code = "run-folder"


class SecretError(TunesmithError, ValueError):
    """A file that would leave this machine holds a secret, or can't be searched for one."""

    code = "secret"


class HubError(TunesmithError, ConnectionError):
    """The Hub refuses what was asked, or holds something else than this run."""

    code = "hub"


class UnverifiedError(TunesmithError, ValueError):
    """An exported file wasn't shown to answer like the model that was trained."""

    code = "unverified"
    exit_code = 1


class PendingError(TunesmithError, ConnectionError):
    """All is done here; what was to be sent is not there yet, and one command sends it."""

    code = "pending"
    exit_code = 5


class RunStopped(TunesmithError, RuntimeError):
    """The run stopped before its end, wrote what it had, and can be resumed."""

    code = "stopped"
    exit_code = 4


class RunInterrupted(RunStopped, InterruptedError):
    """Ctrl-C stopped the run."""

    code = "interrupted"
    exit_code = 130


def first_line(error: BaseException) -> str:
    """An exception as a report names it: its kind and the first line of what it says."""
    said = str(error).strip().split("\n")[0][:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def first_words(error: BaseException) -> str:
    """The first line that an exception says, without its kind; the kind where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
