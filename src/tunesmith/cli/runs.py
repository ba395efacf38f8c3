"""`tunesmith runs`: list them, remove one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tunesmith.cli.output import DebugFlag, JsonFlag, Output, verb
from tunesmith.errors import ConfigError, RunFolderError
from tunesmith.runs.folder import RunFolder, list_runs

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def runs(
    action: Annotated[str | None, typer.Argument(metavar="[rm]", help="rm removes RUN.")] = None,
    run_path: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Run folder, or its name.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """List the runs under runs/, newest first, or remove one."""
    with verb("runs", as_json, debug) as out:
        if action is None:
            _list(out)
        elif action == "rm" and run_path is not None:
            _remove(out, run_path, yes)
        else:
            raise ConfigError("write tunesmith runs, or tunesmith runs rm RUN", where="command line")


def _list(out: Output) -> None:
    rows = []
    for run in list_runs():
        record, newest = run.record, run.newest_checkpoint()
        metrics = record.get("metrics") or {}
        rows.append(
            {
                "run": str(run.path),
                "status": run.status(),
                "method": record.get("method"),
                "model": (record.get("config") or {}).get("model"),
                "step": record.get("step", newest[1] if newest else 0),
                "num_steps": record.get("num_steps"),
                "loss": metrics.get("eval_loss", metrics.get("train_loss")),
                "created_at": record.get("created_at"),
            }
        )
    out.document(runs=rows)
    if not rows:
        out.say("no runs here yet; tunesmith demo or tunesmith train sft makes one")
        return
    if out.as_json:
        return
    table = Table(box=None, padding=(0, 1))
    for name in ("run", "status", "steps", "loss", "model", "created"):
        table.add_column(name, no_wrap=name in ("run", "status"), overflow="fold")
    for row in rows:
        loss = "" if row["loss"] is None else f"{row['loss']:.4f}"
        steps = f"{row['step']}/{row['num_steps']}"
        table.add_row(row["run"], row["status"], steps, loss, str(row["model"]), str(row["created_at"]))
    out.table(table)


def _remove(out: Output, run_path: Path, yes: bool) -> None:
    run = RunFolder.open(run_path)
    if run.status() == "running":
        raise RunFolderError(f"{run.path} is running", where=str(run.path), fix="stop it first")
    if not yes:
        if not (out.is_live and sys.stdin.isatty()):
            raise ConfigError(f"{run.path} would be removed", where="command line", fix="add --yes to say so")
        if not typer.confirm(f"Remove {run.path} with its checkpoints and model?", err=True):
            out.say("kept")
            return
    run.discard()
    if run.path.exists():
        raise RunFolderError(
            f"{run.path} could not be removed whole", where=str(run.path), fix="check its rights"
        )
    out.say(f"removed {run.path}")
    out.document(removed=str(run.path))
