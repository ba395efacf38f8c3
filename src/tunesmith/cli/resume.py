"""`tunesmith resume`: go on with a run that stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.going_on import DriftFlag, TakeOverFlag, go_on, taken, terms
from tunesmith.cli.output import DebugFlag, JsonFlag, verb
from tunesmith.cli.remote_run import brought_here
from tunesmith.config.loading import LoadedConfig
from tunesmith.runs.folder import RunFolder

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def resume(
    run_path: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or its name under runs/.")],
    allow_drift: DriftFlag = None,
    take_over: TakeOverFlag = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Go on with a run that stopped, from its newest checkpoint."""
    with verb("resume", as_json, debug) as out:
        from tunesmith.train.processes import rank

        run = RunFolder.open(run_path, rank())
        again = f"tunesmith resume {run.path}"
        on = terms(allow_drift, take_over, again=again, otherwise="start a new run with tunesmith train")
        with taken(run, on):  # a run that somebody works on, or that is done, is told as such first
            loaded = LoadedConfig(run.config(), run.record.get("provenance") or {})
        go_on(out, brought_here(out, loaded, on, run, run.path) or run, loaded, on)
