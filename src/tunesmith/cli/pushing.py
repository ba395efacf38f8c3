"""A training and the Hub: checkpoints sent along, the model pushed at the end, and what is said of it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from tunesmith.cli.output import Output
from tunesmith.cli.signals import Terminated, ended_by
from tunesmith.errors import ConfigError, PendingError, RunStopped, TunesmithError
from tunesmith.launch.local import STOPPED_PATIENCE_S, was_launched
from tunesmith.runs.folder import PUSH, RunFolder

if TYPE_CHECKING:
    from tunesmith.config.run_config import Hub, RunConfig
    from tunesmith.publish.push import Pushed
    from tunesmith.publish.uploader import Uploader
    from tunesmith.train.events import Listener

# How long a run that stops waits for its last checkpoint to be sent. After a signal the machine goes: Slurm,
# Kubernetes and HF Jobs kill 30 s after SIGTERM, and the checkpoint took some of them.
AFTER_SIGNAL_S, OTHERWISE_S = 12.0, 300.0
# Of several processes the first is waited for so much less than launch/local.py would wait for it.
OTHER_PROCESSES_S = 60.0


@contextmanager
def sent_along(run: RunFolder, config: RunConfig, listener: Listener) -> Iterator[Uploader | None]:
    """Who sends the checkpoints of a run to the Hub while it trains; None where none are to be sent.

    When the run stops early, the last one is sent in the time that is left, or told as pending.
    """
    from tunesmith.train.events import Notice, Phase

    if config.hub.repo_id is None or config.hub.every != "save" or not run.writes:
        yield None
        return
    from tunesmith.publish.uploader import Uploader

    sender = Uploader(run, config.hub, lambda message: listener(Notice(message)))
    within_s = 0.0  # of a run that is done the model is sent next, and its last checkpoint then
    try:
        yield sender
    except BaseException as error:
        within_s = _time_left_s(run, config, error)
        if sender.is_behind:
            listener(
                Phase(f"sending the last checkpoint to {config.hub.repo_id}, for {within_s:.0f} s at most")
            )
        raise
    finally:
        try:
            is_sent = sender.close(within_s)
        except KeyboardInterrupt as error:
            is_sent = sender.close(0.0)
            if not within_s:  # the run is done, and nothing else ends it
                run.mark_pending(PUSH, True)
                raise broken_off(error, f"; {run.path} is done here", run) from None
        if not is_sent and within_s:
            listener(
                Notice(
                    f"pending: the last checkpoint isn't on {config.hub.repo_id}; the run goes on from here"
                )
            )


def _time_left_s(run: RunFolder, config: RunConfig, error: BaseException) -> float:
    from tunesmith.train.stopping import deadline_of

    deadline = deadline_of(config.max_minutes, os.environ)
    left_s = math.inf if deadline is None else max(1.0, deadline - time.time())
    if run.record.get("stopped_by") == "deadline":  # the run stopped early enough for it
        return min(left_s, STOPPED_PATIENCE_S - OTHER_PROCESSES_S) if was_launched() else left_s
    signalled = isinstance(error, KeyboardInterrupt) or run.record.get("stopped_by") in ("SIGTERM", "SIGINT")
    limit_s = AFTER_SIGNAL_S if signalled or not isinstance(error, RunStopped) else OTHERWISE_S
    return min(left_s, limit_s)


def pushed_at_end(
    run: RunFolder, hub: Hub, listener: Listener, sender: Uploader | None = None
) -> Pushed | None:
    """What became of the push of a run that is done; None where none was asked for.

    Raises:
        TunesmithError: Ctrl-C while it was pushed.
    """
    if hub.repo_id is None or not run.writes:
        return None
    run.mark_pending(PUSH, True)
    try:
        from tunesmith.publish.causes import Cause
        from tunesmith.publish.hub import repository_url
        from tunesmith.publish.push import Pushed, push_run
        from tunesmith.train.events import Phase

        listener(Phase(f"pushing the model to {hub.repo_id}"))
        return push_run(run, hub, ends=hub.every == "save", sender=sender.sender if sender else None)
    except ConfigError as error:  # it changed while the run trained
        cause = Cause(error.message, passes=False, fix=error.fix)
        return Pushed(repository_url(hub.repo_id), False, tuple(run.pending()), cause)
    except KeyboardInterrupt as error:
        raise broken_off(error, f" while {run.path} was pushed; it is done here", run) from None


def broken_off(error: KeyboardInterrupt, what: str, run: RunFolder, hub: Hub | None = None) -> TunesmithError:
    """The end of a push by Ctrl-C, or by SIGTERM: the run is done, so that nothing is to be resumed."""
    if isinstance(error, Terminated):
        return PendingError(f"SIGTERM received{what}", where=str(run.path), fix=again(run, hub))
    return ended_by(error, what, again(run, hub))


def again(run: RunFolder, hub: Hub | None = None) -> str:
    """The command that does what is pending; `hub` where it isn't the run's own."""
    own = (run.record.get("config") or {}).get("hub") or {}
    elsewhere = f" {hub.repo_id}" if hub and hub.repo_id != own.get("repo_id") else ""
    public = " --public" if hub and hub.public and (elsewhere or not own.get("public")) else ""
    return f"tunesmith publish {run.path}{elsewhere}{public}"


def tell_pushed(
    out: Output, run: RunFolder, pushed: Pushed, keys: dict[str, Any], hub: Hub | None = None
) -> None:
    """Say where a model is, or why it isn't there, with `keys` in the document.

    Raises:
        typer.Exit: something is pending.
    """
    keys = keys | {"url": pushed.url, "pending": list(pushed.pending)}
    if pushed.cause is None:
        out.say(
            f"on the Hub: {pushed.url}"
            + ("" if pushed.is_changed else "; it was there already, nothing changed")
        )
        out.document(**keys)
        return
    advice = f" ({pushed.cause.fix})" if pushed.cause.fix else ""
    said = f"{' and '.join(pushed.pending)} to the Hub: {pushed.cause.said}{advice}; all of it is here"
    error = PendingError(said, where=str(run.path), fix=again(run, hub))
    out.error(error, **keys)
    raise typer.Exit(error.exit_code)
