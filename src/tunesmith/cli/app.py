"""The root command. A verb's module is imported when the verb runs, so that `--help` stays fast."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from tunesmith import __version__
from tunesmith.cli.signals import ended_by, raising
from tunesmith.errors import ConfigError, TunesmithError

# Help cuts what doesn't fit into a line of 80 characters: 63 of them are left here.
VERBS: dict[str, str] = {
    "demo": "Teach a real small model something, on two cores in minutes.",
    "init": "Write a commented RUN.yaml to start from.",
    "validate": "Check every row: structure, tokens, duplicates, secrets.",
    "preview": "Show rows as the trainer sees them, and where the loss lies.",
    "plan": "Predict memory, time and money of a run before it is paid for.",
    "train": "Train a model on a dataset into a run folder.",
    "resume": "Go on with a run that stopped.",
    "runs": "List the runs here, or remove one.",
    "show": "Show a run: status, results, and where every setting came from.",
    "export": "Write a model for llama.cpp, Ollama or vLLM, and prove it.",
    "publish": "Put a run's model on the Hub, private unless asked.",
    "dashboard": "Open the local Trackio dashboard.",
    "doctor": "What this machine has, what is missing, and how to get it.",
}


class LazyGroup(TyperGroup):
    """Lists verbs from a table; loads the module of the one that runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        return TyperCommand(cmd_name, help=VERBS[cmd_name])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_verb(str(name)), rest


def load_verb(name: str) -> Any:
    """The command object of a verb, its module imported."""
    command = typer.main.get_command(importlib.import_module(f"tunesmith.cli.{name}").app)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    name="tunesmith",
    help="From a dataset to a model you can run, without wasting a GPU-hour.",
    add_completion=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tunesmith {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From a dataset to a model you can run, without wasting a GPU-hour."""


def main() -> NoReturn:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code of the command line `arguments`; wrong usage is said as any other error."""
    wrong: TunesmithError
    try:
        with raising():
            return int(app(list(arguments) or ["--help"], prog_name="tunesmith", standalone_mode=False) or 0)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "tunesmith"
        wrong = ConfigError(error.format_message(), where="command line", fix=f"{path} --help")
    except (KeyboardInterrupt, typer.Abort) as error:  # before the verb began
        wrong = ended_by(error)
    except Exception as error:  # a verb's module that can't be imported: a broken installation (test_cli.py)
        if "--debug" in arguments:
            raise
        from tunesmith.cli.output import internal_error

        wrong = internal_error(error)
    # Imported here: it brings rich, which plain help has no need of.
    from tunesmith.cli.output import Output

    name = arguments[0] if arguments and arguments[0] in VERBS else "tunesmith"
    out = Output(name, "--json" in arguments)
    out.error(wrong)
    out.close()
    return wrong.exit_code
