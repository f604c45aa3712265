"""`budmlx rank`: this machine's part of a model that another one serves."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from budmlx import logs
from budmlx.backend import check_backend
from budmlx.cli.load_model import read_config
from budmlx.config import Config
from budmlx.engine.hosts.agent import Agent
from budmlx.engine.load.hub import resolve_model
from budmlx.engine.load.machines import checked_secret, secret_of
from budmlx.errors import RanksError
from budmlx.protocol import CoreSettings

log = logging.getLogger(__name__)

# Seconds until another try, and those of a rank that is started for one server.
_RETRY_SECONDS = 2.0
_ONCE_SECONDS = 20.0


def rank(
    join: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the server awaits its machines.")
    ],
    token_file: Annotated[
        str,
        typer.Option(metavar="FILE", help="File with the secret of all machines; - reads stdin."),
    ],
    number: Annotated[
        int, typer.Option("--rank", metavar="N", help="Which rank; by the address if not given.")
    ] = -1,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model's directory or name here, if another."),
    ] = None,
    tls_digest: Annotated[
        str, typer.Option(metavar="HEX", help="SHA-256 of the server's certificate, if it has one.")
    ] = "",
    once: Annotated[
        bool, typer.Option("--once", help="Leave when the server does, and do not wait for it.")
    ] = False,
) -> None:
    """Compute a part of a model that another machine serves.

    `budmlx serve --machines` starts it over ssh; by hand it waits for the server, and for the
    next one when that ends.
    """
    check_backend()
    config = read_config({}, None).config
    logs.set_up(config.log_level, config.log_format)
    if token_file == "-":
        secret = checked_secret(sys.stdin.readline().strip(), "the standard input")
    else:
        secret = secret_of(Path(token_file))
    seconds = _ONCE_SECONDS if once else _RETRY_SECONDS
    find, told = _finder(config, model), ""
    while True:
        try:
            agent = Agent.join(join, secret, number, find, digest=tls_digest, seconds=seconds)
            log.info("Joined %s", join)
            told = ""
            agent.serve()
        except RanksError as error:
            if once:
                raise
            if error.message != told:
                log.warning("%s It is tried again.", error.message)
            told = error.message
        if once:
            return
        time.sleep(_RETRY_SECONDS)


def _finder(config: Config, model: str | None) -> Callable[[CoreSettings], CoreSettings]:
    """What finds a server's model on this machine. model: the name that it has here."""

    def find(settings: CoreSettings) -> CoreSettings:
        path = Path(model or settings.model_path)
        if not path.is_dir():
            name = model or settings.model_name
            path = resolve_model(name, models_dirs=config.models_dir, fetch=None)
        return msgspec.structs.replace(settings, model_path=str(path))

    return find
