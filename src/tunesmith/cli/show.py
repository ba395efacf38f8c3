"""`tunesmith show`: a run's status, results and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tunesmith.cli.describe import provenance_table
from tunesmith.cli.output import DebugFlag, JsonFlag, verb
from tunesmith.runs.folder import RunFolder

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def show(
    run_path: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or its name under runs/.")],
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Show a run: status, results, and where every setting came from."""
    with verb("show", as_json, debug) as out:
        run = RunFolder.open(run_path)
        record = run.record
        out.document(run=str(run.path), run_status=run.status(), record=record)
        if as_json:
            return
        facts = Table(show_header=False, box=None, padding=(0, 1))
        facts.add_column(style="bold", no_wrap=True)
        facts.add_column(overflow="fold")
        for name, value in _facts(run).items():
            facts.add_row(name, value)
        out.table(facts)
        out.data("")
        out.table(provenance_table(record.get("config", {}), record.get("provenance", {})))


def _facts(run: RunFolder) -> dict[str, str]:
    record = run.record
    newest = run.newest_checkpoint()
    step = record.get("step", newest[1] if newest else 0)
    facts = {
        "run": str(run.path),
        "status": run.status() + (f" by {record['stopped_by']}" if record.get("stopped_by") else ""),
        "steps": f"{step} of {record.get('num_steps')}",
        "begun": str(record.get("created_at")),
        "machine": str((record.get("machine") or {}).get("device_name")),
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version),
    }
    for name, value in (record.get("metrics") or {}).items():
        facts[name] = f"{value:.6g}"
    if run.status() in ("stopped", "killed", "failed"):
        facts["resume with"] = f"tunesmith resume {run.path}"
    if run.model_path.is_dir():
        facts["model"] = str(run.model_path)
    for note in record.get("notes") or []:
        facts["note"] = note
    return facts
