"""`tunesmith publish`: the model of a run that is done, on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import DebugFlag, JsonFlag, verb
from tunesmith.cli.pushing import broken_off, tell_pushed
from tunesmith.errors import ConfigError, RunFolderError
from tunesmith.runs.folder import RunFolder
from tunesmith.runs.lock import held

if TYPE_CHECKING:
    from tunesmith.config.run_config import Hub

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def publish(
    run_path: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or its name under runs/.")],
    repo_id: Annotated[
        str | None,
        typer.Argument(metavar="[OWNER/NAME]", help="Repository (default: its hub.repo_id)."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a repository that everybody sees.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Send exported files that weren't shown to answer like the model.")
    ] = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Put the model of a run that is done on the Hub, with its card and exported files, in one commit.

    Private unless asked. Only what changed is sent. Also the way on for a run whose push is pending.
    """
    with verb("publish", as_json, debug) as out:
        from tunesmith.publish.exported import exported_files
        from tunesmith.publish.push import CHECKPOINT, push_run

        run = RunFolder.open(run_path)
        with held(run.path), libraries_logged() as log:
            run = RunFolder.open(run.path)
            log.attach(run.log_path)
            _refuse_unfinished(run)
            hub = _hub_of(run, repo_id, public)
            exported = exported_files(run, force=force)
            names = ", ".join([str(run.model_path), *(each.path.name for each in exported)])
            out.say(f"pushing {names} to {hub.repo_id} ...")
            ends = CHECKPOINT in run.pending() and hub.every == "save"
            try:
                pushed = push_run(run, hub, ends=ends, exported=exported)
            except KeyboardInterrupt as error:
                raise broken_off(error, "; the model is here as it was", run, hub) from None
        if pushed.cause is None:
            out.data(pushed.url)
        tell_pushed(out, run, pushed, {"run": str(run.path), "changed": pushed.is_changed}, hub)


def _refuse_unfinished(run: RunFolder) -> None:
    if run.status() != "done" or not run.model_path.is_dir():
        raise RunFolderError(
            f"{run.path} is {run.status()}: only a run that is done has a model to publish",
            where=str(run.path),
            fix=f"tunesmith show {run.path}",
        )


def _hub_of(run: RunFolder, repo_id: str | None, public: bool) -> Hub:
    """Where to: the repository named, else the run's own."""
    from tunesmith.config.names import checked_repo_id
    from tunesmith.config.run_config import Hub

    own = Hub.model_validate((run.record.get("config") or {}).get("hub") or {})
    if repo_id is None and own.repo_id is None:
        raise ConfigError(
            f"{run.path} names no repository",
            where="OWNER/NAME",
            fix=f"tunesmith publish {run.path} OWNER/NAME",
        )
    if repo_id is None or repo_id == own.repo_id:
        return own.model_copy(update={"public": public or own.public})
    if "/" not in checked_repo_id(repo_id):
        raise ConfigError(f"{repo_id} has no owner", where="OWNER/NAME", fix="write it as OWNER/NAME")
    return Hub(repo_id=repo_id, public=public)
