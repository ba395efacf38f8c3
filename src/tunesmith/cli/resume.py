"""`tunesmith resume`: go on with a run that stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.describe import setup_table
from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import DebugFlag, JsonFlag, verb
from tunesmith.cli.progress import ProgressView
from tunesmith.cli.training import finished, recorded, setting_up
from tunesmith.config.run_config import RunConfig
from tunesmith.errors import RunFolderError
from tunesmith.runs.folder import RunFolder

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def resume(
    run_path: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or its name under runs/.")],
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Go on with a run that stopped, from its newest checkpoint."""
    with verb("resume", as_json, debug) as out:
        from tunesmith.cli.processes import in_all_processes
        from tunesmith.train.processes import rank
        from tunesmith.train.setup import set_up
        from tunesmith.train.training import train

        run = RunFolder.open(run_path, rank())
        if run.status() in ("done", "running"):
            raise RunFolderError(
                f"{run.path} is {run.status()}: there is nothing to resume",
                where=str(run.path),
                fix=f"tunesmith show {run.path}",
            )
        config = read_config(run)
        in_all_processes(out, config)
        newest = run.newest_checkpoint()
        with libraries_logged() as log, ProgressView(out) as view:
            log.attach(run.log_path)
            with setting_up(f"tunesmith resume {run.path}"):
                setup = set_up(config, view, run)
            view.close()
            refuse_other_data(run, setup.data.report.fingerprint)
            out.render(setup_table(setup, run.path))
            out.say(
                f"going on from step {newest[1]}" if newest else "no checkpoint yet: starting from step 0"
            )
            run.mark_running()
            run.update(**setup.way())
            with recorded(run, keep=True):
                result = train(setup, run, view, checkpoint=newest[0] if newest else None)
        finished(out, run, result)


def read_config(run: RunFolder) -> RunConfig:
    """The configuration that the run began with.

    Raises:
        RunFolderError: this version of Tunesmith can't read it.
    """
    try:
        return RunConfig.model_validate(run.record.get("config"))
    except ValueError as error:
        raise RunFolderError(
            f"{run.path / 'run.json'} holds no configuration that this Tunesmith can use: "
            + "; ".join(str(error).splitlines()[1:3]),
            where=str(run.path),
            fix=f"it was written by Tunesmith {run.record.get('tunesmith')}; resume it with that version",
        ) from None


def refuse_other_data(run: RunFolder, fingerprint: str) -> None:
    """Make sure that the data is what the run began with.

    Raises:
        RunFolderError: the dataset changed since.
    """
    if (run.record.get("data") or {}).get("fingerprint") != fingerprint:
        raise RunFolderError(
            "the data is not what this run began with",
            where=str(run.path),
            fix="put the data back, or start a new run with tunesmith train",
        )
