"""`budmlx pull`: fetches a model from the hub."""

from __future__ import annotations

from typing import Annotated

import typer

from budmlx.cli.load_model import ending_downloads, open_library, read_config
from budmlx.engine.load.library.download_bar import download_bar
from budmlx.engine.load.library.pull import pull as fetch
from budmlx.units import size_text


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Hub repository, as org/name.")],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit.", metavar="TEXT")
    ] = None,
) -> None:
    """Fetch a model from the Hugging Face hub.

    Only files that serving needs are fetched. After an interruption, run it again: files that are
    complete are kept. HF_TOKEN opens gated and private repositories, HF_HOME says where models are
    kept.
    """
    with ending_downloads(), download_bar(name) as report:
        path = fetch(name, revision, report)
    model = open_library(read_config({}, None).config).at(path)
    typer.echo(f"{name} has {size_text(model.size)} in {path}")
    if model.problem:
        typer.echo(f"It cannot be served: {model.problem}", err=True)
