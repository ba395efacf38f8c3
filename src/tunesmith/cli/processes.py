"""A command that goes on in several processes, one a GPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from tunesmith.cli.output import Output
from tunesmith.config.run_config import RunConfig


def in_all_processes(out: Output, config: RunConfig, more: Sequence[str] = ()) -> None:
    """Come back where one process is enough, and in each of several; else run them all and exit as they did.

    They get this command's own arguments, and `more` behind them.
    """
    from tunesmith.launch.local import run_processes, was_launched

    number = number_of_processes(config)
    if was_launched() or number == 1:
        return
    ended = run_processes([sys.executable, "-m", "tunesmith", *sys.argv[1:], *more], number)
    if ended.failed is not None:
        out.say(f"of {number} processes number {ended.failed} failed first, with exit code {ended.code}:")
        out.say(ended.said or "it printed nothing")
    raise typer.Exit(ended.code)


def number_of_processes(config: RunConfig) -> int:
    """How many processes work on a run here: those that were started, or else would be.

    Raises:
        ConfigError: more were asked for than there are GPUs.
    """
    from tunesmith.launch.local import was_launched
    from tunesmith.plan.choice import share_out
    from tunesmith.train.machine import count_gpus
    from tunesmith.train.processes import world_size
    from tunesmith.train.trainers import TRAINERS

    if was_launched():
        return world_size()
    return share_out(config, count_gpus(config.device), TRAINERS[config.trainer].smallest_micro_batch)
