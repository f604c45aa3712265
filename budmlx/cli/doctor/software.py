"""Findings about what budmlx works with: configuration, plugins, models, the hub, the port."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException

from huggingface_hub import constants, get_token

from budmlx.cli.doctor.finding import Finding, good
from budmlx.cli.running_server import ANY_ADDRESS, RunningServer
from budmlx.config import Config
from budmlx.config.sources import LoadedConfig
from budmlx.engine.load.library.library import Library
from budmlx.errors import BudmlxError
from budmlx.plugins.manager import Plugins
from budmlx.units import size_text

HUB_SECONDS = 5.0
ANSWER_SECONDS = 3.0
"""Whoever says nothing for so long is no server of ours, or one that hangs."""
PORT_SECONDS = 1.0


def configuration(loaded: LoadedConfig) -> Iterator[Finding]:
    """Settings that nothing reads, and a server that strangers can reach without a key."""
    for name in loaded.unknown_variables:
        text = f"{name} is set, but is no setting of budmlx"
        yield Finding("Configuration", "note", text, "`budmlx serve --print-config` lists them.")
    yield good("Configuration", "it can be read")


def plugins(found: Plugins) -> Iterator[Finding]:
    """Those that are left out."""
    broken = [info for info in found.info if info.problem]
    for info in broken:
        text = f"{info.name} {info.version} is left out: {info.problem}"
        yield Finding("Plugins", "fault", text, f"Update or remove it ({info.source}).")
    count = len(found.info) - len(broken)
    yield good("Plugins", f"{count} loaded")


def models(library: Library) -> Iterator[Finding]:
    """Those that cannot be served."""
    found = library.models()
    usable = [model for model in found if model.servable]
    for model in found:
        if not model.servable:
            text = f"{model.name} cannot be served: {model.problem}"
            yield Finding("Models", "note", text, f"It is in {model.path}.")
    if usable:
        size = size_text(sum(model.size for model in usable))
        yield good("Models", f"{len(usable)} can be served, {size}")
    else:
        advice = "Fetch one: budmlx pull mlx-community/Qwen3-4B-4bit"
        yield Finding("Models", "note", "none on this machine but the demo", advice)


def hub() -> Finding:
    """Whether models can be fetched."""
    address = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        advice = "Unset HF_HUB_OFFLINE to fetch models."
        return Finding("Hub", "note", "offline by HF_HUB_OFFLINE", advice)
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=HUB_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass  # It answered.
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        advice = "Models on this machine are served all the same. Proxies: set HTTPS_PROXY."
        return Finding("Hub", "note", f"{address} cannot be reached ({reason})", advice)
    token = "with a" if get_token() else "no"
    return good("Hub", f"{address} answers, {token} token")


def port(config: Config) -> Finding:
    """Whether the server's port is free, or who has it."""
    host = ANY_ADDRESS.get(config.host, config.host)
    place = f"{host}:{config.port}"
    if config.port == 0:
        return good("Port", "the system chooses one")
    try:
        socket.create_connection((host, config.port), PORT_SECONDS).close()
    except OSError:
        return good("Port", f"{place} is free")
    try:
        scheme = "http" if config.tls_cert is None else "https"
        server = RunningServer(f"{scheme}://{place}", _key(config), config.tls_cert)
        count = len(server.models(ANSWER_SECONDS))
    except BudmlxError:
        text = f"{place} is taken by another program"
        return Finding("Port", "fault", text, "Choose one with --port.")
    return good("Port", f"budmlx answers at {place}, with {count} models")


def _key(config: Config) -> str:
    return next(iter((*config.accepted_admin_keys(), *config.accepted_keys())), "")
