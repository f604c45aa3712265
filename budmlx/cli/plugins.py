"""`budmlx plugins`: the installed plugins and their faults; `budmlx plugins new`: a package."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from budmlx.cli.flags import CONFIG_OPTION
from budmlx.cli.load_model import read_config
from budmlx.cli.scaffold import HOOKS, write_package
from budmlx.cli.terminal import plain_console
from budmlx.errors import BudmlxError
from budmlx.plugins.manager import PluginInfo, Plugins


def plugins(
    action: Annotated[Literal["list", "new"], typer.Argument(help="What to do.")] = "list",
    name: Annotated[
        str | None, typer.Argument(help="Name of the new package, such as budmlx-sampler-mine.")
    ] = None,
    hook: Annotated[
        list[str] | None,
        typer.Option(
            help=f"What the new plugin provides; may be repeated. One of {', '.join(HOOKS)}."
        ),
    ] = None,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
) -> None:
    """List plugins, or write a new one.

    `budmlx plugins` shows where each plugin acts and why a broken one is left out.
    `budmlx plugins new NAME --hook sampler` writes a package with a passing test; with several
    `--hook`s the plugin provides all of them.
    """
    if action == "list":
        if name is not None or hook:
            raise BudmlxError("NAME and --hook go with: budmlx plugins new NAME --hook HOOK.")
        _list(Plugins.load(read_config({}, config).config))
        return
    if name is None or not hook:
        raise BudmlxError(
            "A new plugin needs a name and a hook: budmlx plugins new NAME --hook HOOK."
        )
    path = write_package(Path(name), hook)
    install, test = shlex.quote(f"{path}[test]"), shlex.quote(str(path))
    typer.echo(f"Wrote {path}. Try: pip install -e {install} && pytest {test} && budmlx plugins")


def _list(loaded: Plugins) -> None:
    """Print a table of what works, then a line for each plugin that does not."""
    table = Table("Plugin", "Version", "From", "Runs in", "Hooks", box=None, pad_edge=False)
    for info in loaded.info:
        if not info.problem:
            rings = ", ".join(info.rings)
            table.add_row(info.name, info.version, info.source, rings, ", ".join(info.hooks))
    console = plain_console()
    console.print(table)
    for info in loaded.info:
        if info.problem:
            console.print(_broken(info), soft_wrap=True)


def _broken(info: PluginInfo) -> str:
    return f"Left out: {info.name} {info.version} ({info.source}): {info.problem}"
