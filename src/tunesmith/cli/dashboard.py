"""`tunesmith dashboard`: Trackio's own, on this machine."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import DebugFlag, JsonFlag, verb
from tunesmith.errors import ConfigError, MissingPackageError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def dashboard(
    project: Annotated[str | None, typer.Option(help="Show this project only.")] = None,
    open_browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open it in a browser.")
    ] = True,
    port: Annotated[
        int | None, typer.Option(help="Port to serve on [the first free one from 7860].", min=1, max=65535)
    ] = None,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Open the local Trackio dashboard; Ctrl-C ends it. It is served to this machine only."""
    with verb("dashboard", as_json, debug) as out:
        server, url = serve(project, open_browser, port)
        out.data(url)
        if as_json:
            out.event({"event": "serving", "url": url})
        out.say("serving the dashboard to this machine; Ctrl-C ends it")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            out.say("the dashboard is closed")
        finally:
            server.close()
        out.document(url=url)


def serve(project: str | None, open_browser: bool, port: int | None) -> tuple[Any, str]:
    """The running server, with its `close()`, and the address without Trackio's write token.

    Raises:
        MissingPackageError: trackio is not installed.
        ConfigError: the port can't be used.
    """
    # Trackio prints its write token, with which anybody can change runs: it goes to a log that is dropped.
    with libraries_logged():
        try:
            import trackio
        except ImportError:
            raise MissingPackageError(
                "trackio is not installed", fix="pip install 'tunesmith[train]'"
            ) from None
        try:
            server, url, _, _ = trackio.show(
                project=project,
                open_browser=open_browser,
                server_port=port,
                host="127.0.0.1",
                share=False,
                block_thread=False,
            )
        except OSError as error:
            raise ConfigError(
                f"the dashboard can't be served: {error}", where="--port", fix="choose another --port"
            ) from None
    return server, url
