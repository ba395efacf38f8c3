"""`tunesmith dashboard`: Trackio's own, on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith.cli.output import DebugFlag, JsonFlag, verb
from tunesmith.errors import MissingPackageError

app = typer.Typer(add_completion=False)


@app.command()
def dashboard(
    project: Annotated[str | None, typer.Option(help="Show this project only.")] = None,
    open_browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open it in a browser.")
    ] = True,
    port: Annotated[int | None, typer.Option(help="Port to serve on [the first free one from 7860].")] = None,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Open the local Trackio dashboard; Ctrl-C ends it. It is served to this machine only."""
    with verb("dashboard", as_json, debug) as out:
        try:
            import trackio
        except ImportError:
            raise MissingPackageError(
                "trackio is not installed", fix="pip install 'tunesmith[train]'"
            ) from None
        out.say("serving the dashboard on this machine; Ctrl-C ends it")
        trackio.show(
            project=project, open_browser=open_browser, server_port=port, host="127.0.0.1", share=False
        )
