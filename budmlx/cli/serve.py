"""`budmlx serve`: load a model and answer HTTP until it is stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from budmlx import log_file, logs, stacks
from budmlx.backend import check_backend
from budmlx.cli.flags import CONFIG_OPTION, config_options, given, with_options
from budmlx.cli.load_model import memory_line, progress, read_config, warn_of_tables
from budmlx.cli.show_config import sampling_comments, to_toml
from budmlx.cli.terminal import go_on_without_streams, leave_closed_streams
from budmlx.config import Config
from budmlx.config.sources import load_config
from budmlx.engine.engine import Engine
from budmlx.engine.hosts.machines import agent_command, joined
from budmlx.engine.load.library.pull import downloads_run
from budmlx.engine.load.machines import read_machines
from budmlx.engine.models.models import Models
from budmlx.errors import ConfigError
from budmlx.open_files import connections_within, raise_open_files_limit
from budmlx.server.app import create_loading_app
from budmlx.server.app import serve as serve_http
from budmlx.server.limits import DEFAULTS as LIMITS
from budmlx.server.listening import listen
from budmlx.server.loading import LoadingServer
from budmlx.server.stores import Stores

log = logging.getLogger(__name__)

OPTIONS = config_options()
PRINT_COMMAND = typer.Option(
    "--print-command", help="Print what --machines runs on each machine, and leave."
)


@with_options(OPTIONS)
def serve(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Model directory, hub repository org/name, or a name of [models.NAME] in the "
            "file; without it, all models on this machine are served, each loaded when a request "
            "names it, or the demo model if there is none.",
        ),
    ] = None,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings as TOML and leave.")
    ] = False,
    print_command: Annotated[bool, PRINT_COMMAND] = False,
    **options: Any,
) -> None:
    """Serve a model over HTTP, or all that are on this machine.

    Every option can also be a BUDMLX_* variable or stand in the TOML file; options win, then
    variables. In the file, a table [models.NAME] has settings of a single model.
    """
    flags = {**given(options, OPTIONS), "model": model}
    loaded = read_config(flags, config)
    if print_config or print_command:
        said = to_toml(loaded) + sampling_comments(loaded) if print_config else ""
        typer.echo(said + "".join(rank_commands(loaded.config) if print_command else ()), nl=False)
        return
    check_backend()
    go_on_without_streams()
    settings = loaded.config
    warn_of_tables(settings)
    if settings.log_file is not None:
        log_file.take_over(settings.log_file)
    stacks.dump_on_signal()
    logs.set_up("debug" if ctx.meta.get("debug") else settings.log_level, settings.log_format)
    # Pillow warns of blemishes in pictures, which clients send.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    _allow_connections()
    with listen(settings) as listening, Stores(settings) as stores, Models(settings) as models:
        with LoadingServer(listening, create_loading_app(settings)):
            for each in models.to_preload:
                with progress(each.spec.config) as notice:
                    models.load(each.name, notice)
        for engine in models.loaded:
            typer.echo(memory_line(engine.status().budget), err=True)
        announce = announcer(models, settings)
        read = partial(_read_again, flags, config)
        asyncio.run(serve_http(models, settings, announce, listening, read, stores))
    log.info("Stopped")
    leave_closed_streams()
    if downloads_run():
        # Python would wait for their threads, and these for the network.
        logging.shutdown()
        os._exit(0)


def rank_commands(config: Config) -> Iterator[str]:
    """The commands that start the ranks of other machines, each reading the secret from stdin.

    Raises:
        ConfigError: there is no hostfile, or it cannot be used.
    """
    machines = read_machines(config.for_model())
    if machines is None:
        raise ConfigError("--print-command needs --machines.", param="machines")
    port = str(machines.port) if machines.port else "PORT"
    digest = machines.certificate.digest() if machines.certificate else ""
    for rank, machine in enumerate(machines.each[1:], 1):
        words = agent_command(machines, rank, joined(machines.each[0].ip, port), digest)
        over = f"ssh {shlex.quote(machine.ssh)} " if machine.ssh else ""
        yield over + (shlex.quote(shlex.join(words)) if over else shlex.join(words)) + "\n"


def _read_again(flags: Mapping[str, Any], file: Path | None) -> Config:
    return load_config(flags, file).config


def _allow_connections() -> None:
    """Raise the limit of open files; log it if all connections cannot be open at once."""
    limit, most = raise_open_files_limit(), connections_within(LIMITS.max_connections)
    if most < LIMITS.max_connections:
        log.warning(
            "The system allows %d open files, so at most %d connections instead of %d are open at "
            "once. See: ulimit -Hn.",
            limit,
            most,
            LIMITS.max_connections,
        )


def announcer(models: Models, config: Config) -> Callable[[str], None]:
    """A function that prints the address, and a request to try, once the server answers."""

    def announce(url: str) -> None:
        loaded = models.loaded
        for engine in loaded:
            typer.echo(numbers_line(engine), err=True)
        name = loaded[0].info.name if loaded else models.names[0]
        if (count := len(models.residents)) == 1:
            what = f"{name} is served"
        else:
            typer.echo(f"Served when a request names them: {', '.join(models.names)}", err=True)
            what = f"{count} models are served"
        typer.echo(f"{what} at {url}/v1. Try: {example(url, name, config)}")

    return announce


def numbers_line(engine: Engine) -> str:
    """What was chosen for the device, in one line."""
    numbers = engine.info.numbers.items()
    return "Chosen for this device: " + ", ".join(f"{name} {value}" for name, value in numbers)


def example(url: str, model: str, config: Config) -> str:
    """A curl command with a request to the server."""
    message = {"role": "user", "content": "Hello!"}
    body = {"model": model, "messages": [message], "max_tokens": 100}
    words = ["curl", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json"]
    if config.needs_key:
        words += ["-H", "Authorization: Bearer YOUR_KEY"]
    return shlex.join([*words, "-d", json.dumps(body, ensure_ascii=False)])
