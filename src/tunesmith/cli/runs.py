"""`tunesmith runs`: list them, remove one."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from tunesmith.cli.output import DebugFlag, JsonFlag, Output, verb
from tunesmith.errors import ConfigError, RunFolderError
from tunesmith.runs.folder import RunFolder, list_runs

# A name of a run that is longer is broken rather than the model be left out.
LONGEST_NAME = 48

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
            raise ConfigError(
                f"tunesmith runs can't do {action!r}" if action != "rm" else "rm needs the run to remove",
                where="command line",
                fix="tunesmith runs, or tunesmith runs rm RUN",
            )


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
    out.table(runs_table(rows, out.width))


def runs_table(rows: Sequence[Mapping[str, Any]], width: int) -> Table:
    """A line a run, by its name under runs/; the model is left out where `width` characters can't hold it."""
    lines = [_cells(row) for row in rows]
    widths = {name: max(len(name), *(len(cells[name]) for cells in lines)) for name in lines[0]}
    needed = sum(widths.values()) - max(0, widths["run"] - LONGEST_NAME) + 2 * (len(widths) - 1)
    names = [name for name in widths if name != "model" or needed <= width]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in names:
        table.add_column(name, no_wrap=name != "run", overflow="fold")
    for cells in lines:
        table.add_row(*(escape(cells[name]) for name in names))
    return table


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "run": Path(row["run"]).name,
        "status": row["status"],
        "steps": f"{row['step']}/{row['num_steps']}",
        "loss": "" if row["loss"] is None else f"{row['loss']:z.4f}",
        "created": _minute(row["created_at"]),
        "model": re.split(r"[/\\]", str(row["model"] or "").rstrip("/\\"))[-1],
    }


def _minute(created_at: Any) -> str:
    """A time of run.json to the minute, 11-24 13:21, in UTC as in the names of runs."""
    try:
        return f"{datetime.fromisoformat(str(created_at)):%m-%d %H:%M}"
    except ValueError:
        return str(created_at)


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
