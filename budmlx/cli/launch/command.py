"""`budmlx launch`: a coding agent that uses a model of this machine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from budmlx.cli.flags import CONFIG_OPTION
from budmlx.cli.launch.target import target
from budmlx.cli.launch.tools import TOOLS, Setup, Tool
from budmlx.cli.terminal import printable
from budmlx.errors import BudmlxError

KNOWN = ", ".join(TOOLS)
KEYS = {"BUDMLX_ADMIN_KEY", "BUDMLX_API_KEYS", "BUDMLX_API_KEY"}
"""Variables with keys. The agent is told one of its own."""


def launch(
    tool: Annotated[str, typer.Argument(metavar="TOOL", help=f"The agent: {KNOWN}.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- ARGUMENTS", help="Arguments of the agent, after two dashes."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A name that the server answers to, or the model that a new server is to serve; "
            "without it, the only one of the server.",
        ),
    ] = None,
    print_: Annotated[
        bool, typer.Option("--print", help="Show the command that starts it, and leave.")
    ] = False,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
) -> None:
    """Start a coding agent that uses a model of this machine.

    The server is the one of BUDMLX_BASE_URL, else the one that the configuration would start. If
    none runs, one is started, and stopped when the agent ends. The agent must be installed.
    """
    chosen = TOOLS.get(tool)
    if chosen is None:
        raise BudmlxError(f"{printable(tool)} is no agent that can be launched; there are {KNOWN}.")
    program = shutil.which(chosen.program)
    if program is None and not print_:
        raise BudmlxError(
            f"{chosen.program} is not installed. Install it: npm install -g {chosen.package}"
        )
    with target(model, config, start=not print_) as found:
        setup = chosen.setup(found)
        if found.certificate is not None:
            file = str(found.certificate.expanduser().resolve())
            setup = replace(setup, variables={**setup.variables, "NODE_EXTRA_CA_CERTS": file})
        if print_ or program is None:
            typer.echo(shown(chosen, setup))
            return
        code = run(program, setup, arguments or ())
    raise typer.Exit(code)


def shown(tool: Tool, setup: Setup) -> str:
    """The command, for a shell."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in setup.variables.items()]
    if setup.settings_variable:
        text = json.dumps(setup.settings, indent=2)
        lines.append(f"# A file with this, whose path is the value of {setup.settings_variable}:")
        lines += [f"# {line}" for line in text.splitlines()]
    return "\n".join([*lines, shlex.join([tool.program, *setup.arguments])])


def run(program: str, setup: Setup, arguments: Sequence[str]) -> int:
    """Run the agent in this terminal; returns its exit code."""
    with tempfile.TemporaryDirectory(prefix="budmlx-launch-") as folder:
        # Agents run commands, which are not to have the keys of the server.
        own = {name: value for name, value in os.environ.items() if name not in KEYS}
        variables = {**own, **setup.variables}
        if setup.settings_variable:
            file = Path(folder) / "settings.json"
            file.write_text(json.dumps(setup.settings), "utf-8")
            variables[setup.settings_variable] = str(file)
        # Ctrl-C is for the agent alone, which decides whether it ends.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            return subprocess.call([program, *setup.arguments, *arguments], env=variables)
        finally:
            signal.signal(signal.SIGINT, before)
