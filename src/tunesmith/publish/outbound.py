"""The one door out: which files of a folder leave this machine, and the search for secrets that they pass."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tunesmith.errors import SecretError
from tunesmith.publish.allowed import Outgoing, outgoing
from tunesmith.publish.inspection import Finding, Inspection
from tunesmith.publish.known import known_secrets

__all__ = ["Finding", "Outgoing", "outgoing", "refuse_secrets", "scan"]


def scan(what: Path | Iterable[Path], *, also: Iterable[str] = ()) -> list[Finding]:
    """The secrets in what would leave: of a folder the files that `outgoing` names, else each of the files.

    Looked for are keys and tokens by their shapes, and the values of this machine's own secrets, to which
    `also` adds those that a caller was given. Raises an OSError where a file can't be read.
    """
    known = known_secrets(also)
    if isinstance(what, Path) and what.is_dir():
        files = [(path, path.relative_to(what)) for path in outgoing(what).files]
    else:
        files = [(path, path) for path in ([what] if isinstance(what, Path) else what)]
    found: list[Finding] = []
    for path, label in files:
        with path.open("rb") as stream:
            found += Inspection(label, known).run(stream)
    return found


def refuse_secrets(folder: Path, *, also: Iterable[str] = ()) -> Outgoing:
    """The files of a folder that may leave, when no secret is in them.

    Raises:
        SecretError: something in them is a secret or can't be searched; it names the file and the byte.
    """
    leaving = outgoing(folder)
    found = scan(folder, also=also)
    if found:
        first = found[0]
        others = f", and {len(found) - 1} more places" if len(found) > 1 else ""
        raise SecretError(
            f"nothing leaves this machine: {first.kind} in {folder / first.where}{others}",
            where=str(folder / first.where),
            fix="take it out of the file, make it invalid where it was issued if the file was ever shared, "
            "and give the same command again",
        )
    return leaving
