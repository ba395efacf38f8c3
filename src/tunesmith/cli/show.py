"""`tunesmith show`: a run's status, results and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from tunesmith.cli.describe import provenance_table
from tunesmith.cli.output import DebugFlag, JsonFlag, verb
from tunesmith.runs.figures import planned_and_actual
from tunesmith.runs.folder import RunFolder

# The last answers of training that are shown.
SHOWN_ANSWERS = 8

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
        answers = run.read_completions()[-SHOWN_ANSWERS:]
        out.document(run=str(run.path), run_status=run.status(), record=record, completions=answers)
        if as_json:
            return
        facts = Table(show_header=False, box=None, padding=(0, 1))
        facts.add_column(style="bold", no_wrap=True)
        facts.add_column(overflow="fold")
        for name, value in _facts(run).items():
            facts.add_row(name, value)
        out.table(facts)
        out.data("")
        if answers:
            out.table(answers_table(answers))
            out.data("")
        out.table(provenance_table(record.get("config", {}), record.get("provenance", {})))


def answers_table(answers: Sequence[Mapping[str, Any]]) -> Table:
    """Answers that the model gave in training, with their rewards; all of them stand in completions.jsonl."""
    table = Table(box=None, padding=(0, 1))
    for name in ("step", "asked", "answered", "reward"):
        table.add_column(name, style="dim" if name == "step" else None, overflow="fold")
    for each in answers:
        told = ", ".join(f"{name} {_number(value)}" for name, value in each["rewards"].items())
        table.add_row(str(each["step"]), escape(each["prompt"]), escape(each["completion"]), told)
    return table


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else "none"


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
        facts[name] = _number(value)
    facts |= {
        name: actual + (f" (planned {planned})" if planned else "")
        for name, (actual, planned) in planned_and_actual(record).items()
        if actual
    }
    if run.status() in ("stopped", "killed", "failed"):
        facts["resume with"] = f"tunesmith resume {run.path}"
    if pending := run.pending():
        then = f"tunesmith publish {run.path}" if run.status() == "done" else "sent when the run goes on"
        facts["pending"] = f"{', '.join(pending)}: {then}"
    if run.model_path.is_dir():
        facts["model"] = str(run.model_path)
    if notes := record.get("notes"):
        facts["notes"] = "\n".join(notes)
    return facts
