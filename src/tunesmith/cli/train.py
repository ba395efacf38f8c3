"""`tunesmith train`: from a configuration to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.config_flags import with_config_flags
from tunesmith.cli.describe import provenance_table, setup_table
from tunesmith.cli.going_on import DriftFlag, TakeOverFlag, Terms, go_on, terms, unfinished
from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import DebugFlag, JsonFlag, Output, verb
from tunesmith.cli.plain_help import PlainHelpCommand
from tunesmith.cli.processes import in_all_processes
from tunesmith.cli.progress import ProgressView
from tunesmith.cli.pushing import pushed_at_end, sent_along
from tunesmith.cli.remote_run import brought_here
from tunesmith.cli.training import finished, placed, setting_up, start_run, trl_blamed
from tunesmith.config.loading import LoadedConfig, load_config
from tunesmith.config.methods import METHODS
from tunesmith.errors import ConfigError
from tunesmith.publish.outbound import refuse_secret_settings
from tunesmith.runs.folder import new_run_path, refuse_taken

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_AGAIN = "give the same command again"


@app.command(cls=PlainHelpCommand)
@with_config_flags
def train(
    method: Annotated[str, typer.Argument(metavar="METHOD", help=f"How to train: {', '.join(METHODS)}.")],
    run_yaml: Annotated[Path | None, typer.Argument(metavar="[RUN.yaml]", help="Settings as a file.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting, also trl.KEY=VALUE. May be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show all that would happen, and stop.")] = False,
    allow_drift: DriftFlag = None,
    take_over: TakeOverFlag = False,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
    **flags: Any,
) -> None:
    """Train a model on a dataset into a run folder, or go on with the unfinished run that is there.

    Settings come from flags, TUNESMITH_* variables, RUN.yaml and defaults, in this order.
    """
    with verb("train", as_json, debug) as out:
        if method.endswith((".yaml", ".yml")):
            raise ConfigError(
                "the method comes first", where="command line", fix=f"tunesmith train sft {method}"
            )
        on = terms(allow_drift, take_over, again=_AGAIN, otherwise="choose another --run-dir")
        loaded = load_config(
            run_yaml=run_yaml, flags={"method": method, **flags}, assignments=assignments or []
        )
        run_training(out, loaded, on, dry_run=dry_run)


def run_training(out: Output, loaded: LoadedConfig, on: Terms, *, dry_run: bool) -> None:
    """Begin a run, or go on with the one that is in its folder."""
    with placed(loaded.provenance):
        refuse_secret_settings(loaded.config.model_dump(mode="json"))
    run_path = Path(loaded.config.run_dir or new_run_path(loaded.config.method, loaded.config.model))
    more = ["--run-dir", str(run_path)]
    run = unfinished(run_path)
    if run is None:
        refuse_taken(run_path)
    run = brought_here(out, loaded, on, run, run_path, dry_run=dry_run)
    if run is not None:
        go_on(out, run, loaded, on, more, dry_run=dry_run)
        return
    with placed(loaded.provenance):
        in_all_processes(out, loaded.config, more)
    begin(out, loaded, run_path, dry_run=dry_run)


def begin(out: Output, loaded: LoadedConfig, run_path: Path, *, dry_run: bool) -> None:
    """Check, show, train and report; with `dry_run` stop before anything is written."""
    from tunesmith.train.setup import set_up
    from tunesmith.train.training import train
    from tunesmith.train.tuning import settle_tuning

    with placed(loaded.provenance), libraries_logged() as log, ProgressView(out) as view:
        with setting_up(_AGAIN):
            loaded = settle_tuning(loaded, view)
            setup = set_up(loaded.config, view)
        view.close()
        out.render(setup_table(setup, run_path))
        if dry_run:
            out.render(provenance_table(setup.config.model_dump(), loaded.provenance))
            out.say("dry run: nothing was written, no weight was loaded")
            out.document(run=str(run_path), dry_run=True, provenance=loaded.provenance, **setup.record())
            return
        with start_run(run_path, setup, loaded.provenance, log) as run, trl_blamed(run, loaded.provenance):
            with sent_along(run, setup.config, view) as sender:
                result = train(setup, run, view, sender=sender)
            pushed = pushed_at_end(run, setup.config.hub, view, sender)
    finished(out, run, result, pushed)
