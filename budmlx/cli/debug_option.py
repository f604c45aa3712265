"""The option --debug, which every command has."""

from __future__ import annotations

import typer


def _remember_debug(ctx: typer.Context, value: bool) -> bool:
    if value:
        ctx.meta["debug"] = True
    return value


DEBUG_OPTION = typer.Option(
    "--debug",
    envvar="BUDMLX_DEBUG",
    callback=_remember_debug,
    help="Show where an error comes from; serve logs that, too.",
)
"""Before or after the command's name: `budmlx --debug serve` or `budmlx serve --debug`."""
