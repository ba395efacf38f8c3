"""The one door out: which files of a folder leave this machine, and the search for secrets that they pass."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, SecretError
from tunesmith.publish.allowed import Outgoing, outgoing
from tunesmith.publish.inspection import Finding, Inspection
from tunesmith.publish.known import known_secrets, needles
from tunesmith.publish.search import secrets_of_text

__all__ = ["Finding", "Outgoing", "outgoing", "refuse_secret_settings", "refuse_secrets", "scan"]


def scan(what: Path | Iterable[Path], *, also: Iterable[str] = ()) -> list[Finding]:
    """The secrets in what would leave: of a folder the files that `outgoing` names, else each of the files.

    Looked for are keys and tokens by their shapes, and the values of this machine's own secrets, to which
    `also` adds those that a caller was given. Raises an OSError where a file can't be read.
    """
    if isinstance(what, Path) and what.is_dir():
        return _scan(((path, path.relative_to(what)) for path in outgoing(what).files), also)
    return _scan(((path, path) for path in ([what] if isinstance(what, Path) else what)), also)


def _scan(files: Iterable[tuple[Path, Path]], also: Iterable[str]) -> list[Finding]:
    """The secrets in files; the second path of each is its name in what is found."""
    known = known_secrets(also)
    found: list[Finding] = []
    for path, label in files:
        with path.open("rb") as stream:
            found += Inspection(label, known).run(stream)
    return found


def refuse_secrets(folder: Path, *, also: Iterable[str] = (), more: Collection[str] = ()) -> Outgoing:
    """The files of a folder that may leave, when no secret is in them; `more` as `outgoing` takes it.

    Raises:
        SecretError: something in them is a secret or can't be searched; it names the file and the byte.
    """
    leaving = outgoing(folder, more)
    found = _scan(((path, path.relative_to(folder)) for path in leaving.files), also)
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


def refuse_secret_settings(settings: Mapping[str, Any]) -> None:
    """Make sure that no setting of a run is a secret: run.json keeps them, and they go where the run goes.

    Raises:
        ConfigError: one is; the setting is named, and its value isn't repeated.
    """
    looked_for = needles(known_secrets())
    for key, value in settings.items():
        own = {f"{key}.{name}": each for name, each in value.items()} if key == "trl" else {key: value}
        for name, each in own.items():
            kinds = [kind for text in _texts(each) for _, kind in secrets_of_text(text, looked_for)]
            if kinds:
                raise ConfigError(
                    f"{name} holds a secret ({kinds[0]}), and settings are kept in run.json",
                    where=name,
                    fix="read it from an environment variable where it is used, or log in (hf auth login)",
                )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield f"{key} = {each}"
            yield from _texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)
