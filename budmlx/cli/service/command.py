"""The command: it makes a service of `budmlx serve`, and says how it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from budmlx.cli.flags import CONFIG_OPTION
from budmlx.cli.load_model import read_config
from budmlx.cli.running_server import RunningServer, key_of
from budmlx.cli.service.job import Place, job_of
from budmlx.cli.service.launchd import Launchd
from budmlx.cli.service.system import Manager, write
from budmlx.cli.service.systemd import Systemd
from budmlx.directories import state_directory
from budmlx.errors import BudmlxError

Action = Literal["install", "status", "logs", "restart", "reload", "uninstall"]


def service(
    action: Annotated[Action, typer.Argument(help="What to do.")] = "status",
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- SERVE_ARGUMENTS]", help="With install: those of budmlx serve."),
    ] = None,
    system: Annotated[
        bool,
        typer.Option("--system", help="On a Mac, a daemon that runs before anybody logs in."),
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on showing the log.")] = False,
    lines: Annotated[int, typer.Option(min=0, help="How much of the log.", metavar="N")] = 100,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
) -> None:
    """Run the server as a service: launchd on a Mac, systemd on Linux.

    `budmlx service install -- MODEL --port 9000` starts it now and at each login, with the
    variables that are set now; keys and tokens are left out. `reload` has it read its
    configuration again, and says what needs a restart.
    """
    if action == "reload":
        _reload(config)
        return
    manager = manager_of(sys.platform, system=system)
    if action == "install":
        own = [] if config is None else ["--config", str(config.absolute())]
        _install(manager, [*own, *(arguments or [])])
    elif arguments:
        raise BudmlxError("Arguments of budmlx serve go with install.")
    elif action == "status":
        _status(manager, config)
    elif action == "logs":
        raise typer.Exit(subprocess.run(manager.logs(lines, follow=follow), check=False).returncode)
    elif action == "restart":
        manager.restart()
        typer.echo("Restarted.")
    else:
        manager.uninstall()
        _place().unlink(missing_ok=True)
        typer.echo(f"Stopped, and removed {manager.path}.")


def manager_of(platform: str, *, system: bool) -> Manager:
    """The manager of services of a system. Raises BudmlxError if there is none."""
    if platform == "darwin":
        return Launchd(system=system)
    if platform == "linux":
        return Systemd(system=system)
    raise BudmlxError("Services are for a Mac and Linux.")


def _install(manager: Manager, arguments: list[str]) -> None:
    job, place = job_of(arguments, os.environ)
    write(_place(), msgspec.json.encode(place))
    manager.install(job)
    typer.echo(f"Wrote {manager.path} and started it; it is to answer at {place.url}.")
    if job.left_out:
        typer.echo(f"Not written, since they are secrets: {', '.join(job.left_out)}.", err=True)


def _status(manager: Manager, config: Path | None) -> None:
    if not manager.path.exists():
        raise BudmlxError("There is no service; make one with: budmlx service install.")
    typer.echo(manager.status())
    server = _server(config)
    loaded = [each["id"] for each in server.models() if each["state"] == "loaded"]
    typer.echo(f"It answers at {server.url}. Loaded: {', '.join(loaded) or 'nothing'}.")


def _reload(config: Path | None) -> None:
    answer = _server(config).reload()
    for name, words in (
        ("taken", "Taken"),
        ("restart", "After a restart: budmlx service restart"),
        ("models", "When these are loaded again"),
    ):
        if answer[name]:
            typer.echo(f"{words}: {', '.join(answer[name])}")
    if not any(answer.values()):
        typer.echo("Nothing is different.")


def _server(config: Path | None) -> RunningServer:
    """The server of the service, else that of the configuration. Raises BudmlxError."""
    try:
        place = msgspec.json.decode(_place().read_bytes(), type=Place)
    except (OSError, msgspec.DecodeError):
        return RunningServer.find(config)
    key = key_of(read_config({}, config).config)
    return RunningServer(place.url, key, Path(place.certificate) if place.certificate else None)


def _place() -> Path:
    return state_directory() / "service.json"
