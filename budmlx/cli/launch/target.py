"""The server and the model that an agent is launched against: found, checked, or started."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from budmlx.benchmark.server_process import ServerProcess
from budmlx.cli.launch.tools import LEAST_CONTEXT, Target
from budmlx.cli.running_server import NoServer, RunningServer
from budmlx.cli.terminal import printable
from budmlx.config.sources import BASE_URL_VARIABLE
from budmlx.errors import BudmlxError


@contextmanager
def target(model: str | None, config: Path | None, *, start: bool) -> Iterator[Target]:
    """The target for a model: on the server that runs, else on one that runs within the block.

    model: a name that the server answers to; None for the only one. start: whether to start one.

    Raises:
        BudmlxError: there is no server, or the model is of no use to agents.
    """
    server = RunningServer.find(config, admin=False)
    try:
        found = chosen(server, model)
    except NoServer:
        if not start or BASE_URL_VARIABLE in os.environ:
            raise
        with _started(model, config) as server:
            yield checked(server, chosen(server, None))
        return
    yield checked(server, found)


def chosen(server: RunningServer, name: str | None) -> dict[str, Any]:
    """What the server says of the model. Raises BudmlxError, also if it serves several."""
    if name is not None:
        server.models()  # It may be a server that knows no states.
        return server.entry(name)
    entries = server.models()
    own = {entry["id"]: entry for entry in entries if entry["id"] == entry["root"]}
    loaded = [entry for entry in own.values() if entry["state"] == "loaded"]
    if len(own) == 1 or len(loaded) == 1:
        return (loaded or [*own.values()])[0]
    names = ", ".join(map(printable, sorted(own)))
    raise BudmlxError(
        f"The server at {server.url} has several models; name one of them, --model NAME: {names}."
    )


def checked(server: RunningServer, entry: dict[str, Any]) -> Target:
    """The target for a model, which must be of use to agents. Raises BudmlxError."""
    name = entry["id"]
    shown = server.shown(name)
    context = entry.get("max_model_len") or _context(shown)
    if context < LEAST_CONTEXT:
        raise BudmlxError(
            f"{printable(name)} has a context of {context:,} tokens. Agents need {LEAST_CONTEXT:,} "
            "and more: their first prompts alone have up to 30,000. Choose another model, or allow "
            "it more memory."
        )
    if "tools" not in shown.get("capabilities", ()):
        raise BudmlxError(
            f"The chat template of {printable(name)} takes no tools, which agents need. Choose "
            "another model."
        )
    return Target(server.url, server.key, name, context, server.certificate)


def _context(shown: dict[str, Any]) -> int:
    """The context of a model that is not loaded, so that its memory is not known."""
    facts = shown.get("model_info", {}).items()
    return next((int(value) for name, value in facts if name.endswith(".context_length")), 0)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within the block, what ends this program lets it stop the server first."""
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _: object) -> None:
    sys.exit(128 + number)


@contextmanager
def _started(model: str | None, config: Path | None) -> Iterator[RunningServer]:
    """A server that runs until the block ends; what it prints goes to a file."""
    own = RunningServer.find(config, admin=False)
    if model is None:
        raise BudmlxError(
            f"No server answers at {own.url}. Start one with `budmlx serve`, or name the model "
            "that a new one is to serve: --model NAME."
        )
    if own.certificate is not None:
        raise BudmlxError("Start the server with `budmlx serve`, since it is to speak HTTPS.")
    command = [sys.executable, "-m", "budmlx", "serve", model, "--host", "127.0.0.1"]
    command += [] if config is None else ["--config", str(config)]
    with tempfile.TemporaryDirectory(prefix="budmlx-launch-") as folder:
        log = Path(folder) / "server.log"
        headers = {"Authorization": f"Bearer {own.key}"} if own.key else {}
        with Console(stderr=True).status(f"Starting a server for {printable(model)}"):
            process = ServerProcess(command, log=log, headers=headers, apart=True)
        with process, _ended_by_signals():
            typer.echo(f"A server runs at {process.url} until the tool ends.", err=True)
            yield RunningServer(process.url, own.key)
