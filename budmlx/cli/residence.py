"""`budmlx load` and `budmlx unload`: models of a running server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from budmlx.cli.flags import CONFIG_OPTION
from budmlx.cli.running_server import RunningServer
from budmlx.cli.terminal import printable
from budmlx.units import size_text

NAME = typer.Argument(metavar="NAME", help="A name that the server answers to.")


def load(name: Annotated[str, NAME], config: Annotated[Path | None, CONFIG_OPTION] = None) -> None:
    """Load a model in a running server.

    It waits until the model is loaded. The server is the one of BUDMLX_BASE_URL, else the one that
    the configuration would start; where it has an admin key, BUDMLX_ADMIN_KEY must be that.
    """
    server = RunningServer.find(config)
    with Console(stderr=True).status(f"Loading {escape(printable(name))}"):
        entry = server.load(name)
    words = ""
    if residence := entry.get("residence"):
        words = (
            f": at most {size_text(residence['limit'])}, of which the weights take "
            f"{size_text(residence['weights'])}; {entry['max_model_len']:,} tokens"
        )
    typer.echo(f"{printable(entry['root'])} is loaded{words}.")


def unload(
    name: Annotated[str, NAME], config: Annotated[Path | None, CONFIG_OPTION] = None
) -> None:
    """Unload a model of a running server.

    It waits until the requests that run have ended. See load for which server it is.
    """
    server = RunningServer.find(config)
    with Console(stderr=True).status(f"Unloading {escape(printable(name))}"):
        entry = server.unload(name)
    typer.echo(f"{printable(entry['root'])} is {entry['state']}.")
