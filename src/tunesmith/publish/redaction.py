"""A run's record without what is this machine's and its user's alone."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.data.checks.secrets import find_keys
from tunesmith.errors import SecretError
from tunesmith.publish.known import known_secrets, needles
from tunesmith.publish.search import secrets_of_text

# Keys of run.json that say nothing about the model.
_PRIVATE_KEYS = frozenset({"process", "error", "stopped_by"})
_ABSOLUTE = re.compile(
    r"(?<![\w.:/~])(?:~|[A-Za-z]:|file://|\\)?[/\\](?:[^\s'\",;:<>|]+[/\\])+([^\s'\",;:<>|/\\]*)"
)
# The owner of a Hub id may be called as this machine's user: the Hub knows that name.
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*")
_LEFT_OUT = "(left out)"
# Accounts and hosts that thousands of machines have say nothing about anybody.
_ANYBODY = frozenset(
    {"root", "user", "ubuntu", "runner", "jovyan", "admin", "app", "localhost", "vm", "host"}
)


def redacted(record: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of run.json's record without host, user and secrets; absolute paths are their last part.

    Raises:
        SecretError: something of them is still there.
    """
    known = needles(known_secrets())
    private = _private_words()
    clean = {key: _clean(value, known, private) for key, value in record.items() if key not in _PRIVATE_KEYS}
    text = json.dumps(clean, ensure_ascii=False, default=str)
    if secrets_of_text(text, known) or (str(Path.home()) in text and len(str(Path.home())) > 1):
        raise SecretError(
            "the record of the run can't be cleaned of what is private",
            where="run.json",
            fix="look for a token or the home folder in run.json, and take it out",
        )
    return clean


def _clean(value: Any, known: Mapping[bytes, str], private: re.Pattern[str] | None) -> Any:
    if isinstance(value, Mapping):
        return {_clean(str(key), known, private): _clean(each, known, private) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(each, known, private) for each in value]
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        return value
    if secrets_of_text(value, known):
        return "(left out: a secret)"
    value = _ABSOLUTE.sub(lambda match: match[1] or "folder", value)
    return value if private is None or HUB_ID.fullmatch(value) else private.sub(_LEFT_OUT, value)


def without_secrets(text: str) -> str:
    """A text to be shown or kept, in which secrets are named and not said."""
    for value, kind in known_secrets().items():
        text = text.replace(value.decode("utf-8", "surrogateescape"), f"({kind})")
    for start, end, secret in reversed(find_keys(text)):
        text = text[:start] + secret.masked + text[end:]
    return text


def last_part(path: str) -> str:
    """The last part of an absolute path; other texts are left as they are."""
    return _ABSOLUTE.sub(lambda match: match[1] or "folder", path)


def restored(record: Any, given: Any) -> Any:
    """A value of a redacted record; what was taken out is put back where `given` can be what stood there."""
    if isinstance(record, Mapping) and isinstance(given, Mapping):
        return {key: restored(each, given[key]) if key in given else each for key, each in record.items()}
    if isinstance(record, list) and isinstance(given, list) and len(record) == len(given):
        return [restored(each, other) for each, other in zip(record, given, strict=True)]
    if not isinstance(record, str) or not isinstance(given, str):
        return record
    pattern = ".*".join(map(re.escape, record.split(_LEFT_OUT)))
    return given if re.fullmatch(pattern, last_part(given), re.DOTALL) else record


def _private_words() -> re.Pattern[str] | None:
    """This machine's names, its user's and its home's, as whole words."""
    words = {socket.gethostname(), socket.gethostname().partition(".")[0], Path.home().name}
    words |= {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME")}
    with suppress(OSError, KeyError, ImportError):  # a container's user without a name
        words.add(getpass.getuser())
    telling = {re.escape(word) for word in words if len(word) >= 3 and word.lower() not in _ANYBODY}
    return re.compile(rf"(?<!\w)(?:{'|'.join(sorted(telling))})(?!\w)", re.IGNORECASE) if telling else None
