"""`tunesmith plan`: memory, time and money of a run before it is paid for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.config_flags import with_config_flags
from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import DebugFlag, JsonFlag, Output, verb
from tunesmith.cli.plain_help import PlainHelpCommand
from tunesmith.cli.plan_view import comparison, document, facts_table, job_flags, verdict
from tunesmith.cli.progress import ProgressView
from tunesmith.config.loading import LoadedConfig, load_config
from tunesmith.errors import ConfigError

if TYPE_CHECKING:
    from tunesmith.plan.facts import MachineFacts
    from tunesmith.plan.hardware import Machine
    from tunesmith.train.method_trainer import RowCounts
    from tunesmith.train.planning import Outlook, Task

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXIT_REFUSED = 3
NumRows = Annotated[
    int | None, typer.Option(min=1, help="Rows to train on, in place of --dataset.", show_default=False)
]
MeanTokens = Annotated[
    float | None,
    typer.Option(
        min=1, help="Mean tokens of a row (pairs: both texts), in place of --dataset.", show_default=False
    ),
]
Sample = Annotated[
    int | None,
    typer.Option(min=30, help="Read so many rows of --dataset, drawn by seed; not all.", show_default=False),
]
Hardware = Annotated[
    str, typer.Option(metavar="NAME", help="A machine of the table, such as h200; all; or this one: local.")
]


@app.command(cls=PlainHelpCommand)
@with_config_flags
def plan(
    run_yaml: Annotated[Path | None, typer.Argument(metavar="[RUN.yaml]", help="Settings as a file.")] = None,
    method: Annotated[str | None, typer.Option(help="How to train (default: the file's, or sft).")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting, also trl.KEY=VALUE. May be repeated."),
    ] = None,
    num_rows: NumRows = None,
    mean_tokens: MeanTokens = None,
    sample: Sample = None,
    hardware: Hardware = "local",
    probe: Annotated[
        bool, typer.Option("--probe", help="Do a few real steps here, and predict from those.")
    ] = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
    **flags: Any,
) -> None:
    """Predict memory, time and money of a run, and choose how it is best done.

    Exit code 0: it fits, and is within its budget. 3: it isn't; the plan is shown all the same.
    """
    with verb("plan", as_json, debug) as out:
        if (num_rows is None) != (mean_tokens is None):
            raise ConfigError(
                "--num-rows and --mean-tokens go together",
                where="command line",
                fix="give both, or --dataset",
            )
        if num_rows and flags.get("dataset") is None:
            flags["dataset"] = f"{num_rows} rows"
        if sample and (num_rows or probe):
            raise ConfigError(
                "--sample reads a part of --dataset's rows",
                where="command line",
                fix="leave --num-rows and --probe out",
            )
        if probe and (hardware != "local" or num_rows):
            raise ConfigError(
                "--probe does real steps on this machine and on real rows",
                where="command line",
                fix="leave --hardware, --num-rows and --mean-tokens out, and give --dataset",
            )
        loaded = load_config(
            run_yaml=run_yaml, flags={"method": method, **flags}, assignments=assignments or []
        )

        def read_rows() -> RowCounts:
            from tunesmith.train.planning import rows_by_hand, rows_of_data, rows_of_sample

            if num_rows and mean_tokens:
                return rows_by_hand(loaded.config, num_rows, mean_tokens)
            return rows_of_sample(loaded.config, sample) if sample else rows_of_data(loaded.config)

        show_plan(out, loaded, read_rows, hardware, probe=probe, by_hand=num_rows is not None)


def show_plan(
    out: Output,
    loaded: LoadedConfig,
    read_rows: Callable[[], RowCounts],
    hardware: str,
    *,
    probe: bool,
    by_hand: bool,
) -> None:
    """Plan, show, and exit with 3 where no machine that was asked for will do."""
    from tunesmith.cli.training import placed
    from tunesmith.train.planning import facts_here, gguf_note_of
    from tunesmith.train.tuning import tasks_of

    others: dict[str, str] = {}
    with placed(loaded.provenance), libraries_logged(), ProgressView(out) as view:
        tasks = tasks_of(loaded, read_rows())
        if probe:
            outlooks, prices = [_probed_here(tasks, facts_here(tasks[0]), view)], None
        elif hardware == "local":
            outlooks, prices = [_here(tasks, facts_here(tasks[0]))], None
        else:
            outlooks, others, prices = _there(tasks, hardware)
    if not outlooks:
        raise ConfigError(
            f"the memory of {hardware} isn't known", where="hardware", fix="tunesmith plan --hardware all"
        )
    best = cheapest(outlooks)
    note = gguf_note_of(best.task, is_tokenised=not by_hand)
    notes = [note] if note else []
    if len(outlooks) > 1:
        out.table(comparison(outlooks, others))
        out.data("")
    out.table(facts_table(best, notes))
    for line in verdict(outlooks, best):
        out.data(line)
    if job := job_flags(best):
        out.data(f"\n{job}")
    if prices:
        out.say(prices)
    out.document(
        "refused" if best.faults else "done", **document(best, outlooks, others, notes), prices=prices
    )
    if best.faults:
        raise typer.Exit(EXIT_REFUSED)


def cheapest(outlooks: list[Outlook]) -> Outlook:
    """The plan to follow: of those without a fault the cheapest, or the fastest where nothing has a price; of
    others one that a change would help, and that lacks least."""

    def order(each: Outlook) -> tuple[bool, bool, float, float, float]:
        cost, duration, plan = each.plan.cost_usd, each.plan.duration, each.plan
        seconds = duration.expected if duration else float("inf")
        lacks = plan.memory.needed / max(plan.free_gib, 0.1) if each.faults and not plan.fits else 0.0
        no_help = bool(each.faults) and not each.changes
        return bool(each.faults), no_help, lacks, cost["expected"] if cost else float("inf"), seconds

    return min(outlooks, key=order)


def _first_that_does(tasks: Sequence[Task], plan_for: Callable[[Task], Outlook]) -> Outlook:
    """The plan of the first task that nothing stands in the way of, or of the last."""
    for task in tasks:
        found = plan_for(task)
        if not found.faults:
            break
    return found


def _here(tasks: Sequence[Task], facts: MachineFacts) -> Outlook:
    from tunesmith.train.planning import outlook_here

    return _first_that_does(tasks, lambda task: outlook_here(task, facts))


def _probed_here(tasks: Sequence[Task], facts: MachineFacts, view: ProgressView) -> Outlook:
    from tunesmith.plan.facts import machine_here
    from tunesmith.plan.refusal import does_not_fit
    from tunesmith.train.planning import outlook
    from tunesmith.train.probe import probe_steps
    from tunesmith.train.setup import set_up

    found = _here(tasks, facts)
    task = found.task
    if does_not_fit(found.plan, task.config, facts, strictly=False):
        return found  # no step could be done
    if (number := facts.num_devices) > 1:
        raise ConfigError(
            f"--probe does its steps in one process, and this run would have {number}",
            where="command line",
            fix="add --num-processes 1, or leave --probe out",
        )
    setup = set_up(task.config, view, judge=False)
    probe = probe_steps(setup, view)
    return outlook(task, setup.machine, machine_here(setup.machine), probe=probe)


def _there(tasks: Sequence[Task], hardware: str) -> tuple[list[Outlook], dict[str, str], str]:
    """The plans for a named machine, or for all of the table; the machines that can't do this run, with the
    reason; and how old the prices are."""
    from tunesmith.plan.hardware import current_machines, machine

    current = current_machines(os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"), today=date.today())
    every = current.machines
    if hardware != "all":
        every = {hardware: every.get(hardware) or machine(hardware)}
    found, others, refused = [], {}, None
    for name, each in every.items():
        try:
            if outlook := _on(each, tasks):
                found.append(outlook)
        except ConfigError as error:
            others[name], refused = str(error), error
    if refused and not found:
        raise refused
    return found, others, current.says


def _on(machine: Machine, tasks: Sequence[Task]) -> Outlook | None:
    """The plan for a machine of the table; None where the table lacks its memory."""
    from tunesmith.train.planning import facts_there, outlook

    facts = facts_there(tasks[0], machine)
    return facts and _first_that_does(tasks, lambda task: outlook(task, facts, machine))
