"""`tunesmith init`: a commented RUN.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.output import DebugFlag, JsonFlag, verb
from tunesmith.config.methods import METHODS, which_method
from tunesmith.config.template import run_yaml_template
from tunesmith.errors import ConfigError
from tunesmith.runs.files import write_text_whole

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def init(
    method: Annotated[str, typer.Argument(metavar="METHOD", help=f"How to train: {', '.join(METHODS)}.")],
    path: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")] = Path(
        "run.yaml"
    ),
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Write a commented RUN.yaml to start from."""
    with verb("init", as_json, debug) as out:
        if method not in METHODS:
            raise ConfigError(
                f"there is no method {method!r}", where="command line", fix=which_method(method)
            )
        if path.exists():
            raise ConfigError(f"{path} exists already", where=str(path), fix="choose another --out")
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"there is no folder {path.parent}", where=str(path), fix="make it first")
        write_text_whole(path, run_yaml_template(method, str(path)))
        out.data(str(path))
        out.say(f"next:  edit model and dataset in {path}, then tunesmith train {method} {path} --dry-run")
        out.document(path=str(path))
