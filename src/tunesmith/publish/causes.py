"""Why the Hub didn't take something, in a sentence, and whether waiting helps."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import TunesmithError, first_line
from tunesmith.publish.known import known_secrets, needles
from tunesmith.publish.search import secrets_of_text

_LOGIN = "hf auth login, or set HF_TOKEN"
_TOKENS = "https://huggingface.co/settings/tokens"
# By status code: what it means for {0}, and what to do about it. None of these goes away by waiting.
_FINAL = {
    401: ("the Hub doesn't know this login (401)", _LOGIN),
    402: (
        "the Hub asks for a larger plan for {0} (402)",
        "free some storage on the Hub, or choose another owner",
    ),
    403: (
        "this login may not write to {0} (403)",
        f"give the token write access to it at {_TOKENS}, or choose another hub.repo_id",
    ),
    404: (
        "there is no {0} on the Hub, or this login may not see it (404)",
        f"create it, or give the token access to it at {_TOKENS}",
    ),
    413: ("the Hub takes no upload of this size (413)", "see its limits at https://huggingface.co/docs/hub"),
}
_PASSING = {
    408: "the Hub took too long (408)",
    409: "something else is being written to {0} (409)",
    412: "something else was written to {0} meanwhile (412)",
    429: "the Hub asks to wait: too many requests (429)",
}
# What may pass by itself though it comes from below HTTP.
_NETWORK = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")


@dataclass(frozen=True)
class Cause:
    """Why something isn't on the Hub.

    `passes` is True where the same may succeed later by itself, `wait_s` the seconds that the Hub asked for;
    `fix` is what a person can do.
    """

    said: str
    passes: bool
    fix: str | None = None
    status: int | None = None
    wait_s: float | None = None
    # Nothing was answered for as long as one may wait: another attempt would take as long.
    is_silence: bool = False


def cause_of(error: BaseException, repo_id: str) -> Cause | None:
    """What an error says about the Hub, or None where it isn't the Hub's or the network's."""
    for each in _chain(error):
        if isinstance(each, TunesmithError):
            return Cause(each.message, passes=False, fix=each.fix)
        response = getattr(each, "response", None)
        if response is not None and getattr(response, "status_code", None):
            return _of_response(response, getattr(each, "server_message", None), repo_id)
    for each in _chain(error):
        name = type(each).__name__
        if name == "OfflineModeIsEnabled":
            return Cause(
                "the Hub isn't asked: HF_HUB_OFFLINE is set", passes=False, fix="unset HF_HUB_OFFLINE"
            )
        if name == "LocalTokenNotFoundError":
            return Cause("there is no login for the Hub here", passes=False, fix=_LOGIN, status=401)
        if type(each).__module__.partition(".")[0] in _NETWORK or isinstance(
            each, ConnectionError | TimeoutError
        ):
            if "Timeout" in name:
                return Cause("the Hub answered nothing in time", passes=True, is_silence=True)
            return Cause(f"the Hub can't be reached: {first_line(each)}", passes=True)
        if isinstance(each, OSError) and each.errno in (errno.EACCES, errno.ENOENT, errno.EIO, errno.ENOSPC):
            return Cause(f"a file can't be read or written: {first_line(each)}", passes=False)
        # What huggingface_hub raises about answers that it can't use, and about faulty model cards.
        if isinstance(each, ValueError) and _from_the_hub(each):
            return Cause(f"the Hub's answer can't be used: {first_line(each)}", passes=False)
    return None


def _of_response(response: Any, server_message: str | None, repo_id: str) -> Cause:
    status = int(response.status_code)
    wait = str(response.headers.get("Retry-After", ""))
    wait_s = float(wait) if wait.isdigit() else None
    if status in _FINAL:
        said, fix = _FINAL[status]
        return Cause(said.format(repo_id) + _quoted(server_message), passes=False, fix=fix, status=status)
    if status in _PASSING or status >= 500:
        said = _PASSING.get(status, f"the Hub is out of order ({status})")
        return Cause(said.format(repo_id), passes=True, status=status, wait_s=wait_s)
    return Cause(f"the Hub refuses it ({status})" + _quoted(server_message), passes=False, status=status)


def _quoted(server_message: str | None) -> str:
    """The Hub's own words, one short line of them, where no secret is among them."""
    line = next((each.strip() for each in (server_message or "").splitlines() if each.strip()), "")[:160]
    if not line or not line.isprintable() or secrets_of_text(line, needles(known_secrets())):
        return ""
    return f': "{line}"'


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while error is not None and seen < 10:
        yield error
        error, seen = error.__cause__ or error.__context__, seen + 1


def _from_the_hub(error: BaseException) -> bool:
    """Whether it was raised inside huggingface_hub."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at is not None and str(at.tb_frame.f_globals.get("__name__", "")).startswith("huggingface_hub")
