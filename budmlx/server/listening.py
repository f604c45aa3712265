"""Listening sockets: the address of a server, taken before there is anything to serve."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from budmlx.config import ServerConfig
from budmlx.errors import ConfigError
from budmlx.server.security import bracketed, check_bind
from budmlx.server.tls import Certificate

log = logging.getLogger(__name__)

BACKLOG = 1024
ACCEPTED = 16
"""So many connections are accepted in a row before others are served."""

TOLD_SECONDS = 60.0
# There, one program may bind an address beside another that has the same port on all addresses.
SHARES_PORTS = sys.platform == "darwin"
PROBE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Listening:
    """The sockets of a server; the system accepts connections on them. A context manager.

    url: an address that works on this machine, for a wildcard too. port: the real one.
    certificate: for HTTPS; None for HTTP.
    """

    sockets: tuple[socket.socket, ...]
    url: str
    port: int
    certificate: Certificate | None = None

    @property
    def ssl(self) -> ssl.SSLContext | None:
        """What connections need for HTTPS; None for HTTP."""
        return None if self.certificate is None else self.certificate.context

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        for each in self.sockets:
            each.close()


def tell_of_open_files() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """An exception handler that says once a minute that there are no files for connections.

    asyncio goes on accepting a second later.
    """
    told = -math.inf

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal told
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif (now := time.monotonic()) > told + TOLD_SECONDS:
            told = now
            log.warning("New connections wait: too many files are open. See: ulimit -n.")

    return handle


def listen(config: ServerConfig) -> Listening:
    """Take the address.

    Raises ConfigError when it is taken, unknown or unsafe, or the certificate cannot be used.
    """
    sockets: Sequence[socket.socket] = ()
    if config.listen_fd is not None:
        sockets = [_inherited(config.listen_fd)]
        host, port, *_ = sockets[0].getsockname()
        config = config.model_copy(update={"host": host, "port": port})
    check_bind(config)
    certificate = Certificate.of(config)
    if not sockets and SHARES_PORTS and _is_answered(config):
        raise _in_use(config)
    try:
        sockets = sockets or _bound(config)
    except OSError as exc:
        raise _cannot_bind(config, exc) from exc
    port = sockets[0].getsockname()[1]
    scheme = "http" if certificate is None else "https"
    url = f"{scheme}://{bracketed(_reachable(config.host))}:{port}"
    return Listening(tuple(sockets), url, port, certificate)


def _inherited(number: int) -> socket.socket:
    """The socket that whoever started this process has opened. Raises ConfigError."""
    try:
        found = socket.socket(fileno=number)
    except OSError:
        found = None
    families = (socket.AF_INET, socket.AF_INET6)
    listens = found is not None and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if found is None or found.family not in families or not listens:
        raise ConfigError(
            f"listen_fd: the open file {number} is no listening socket with an address and a port.",
            param="listen_fd",
        )
    return found


def _bound(config: ServerConfig) -> Sequence[socket.socket]:
    """A socket for each address of the host, such as 127.0.0.1 and ::1. Raises OSError."""
    found = socket.getaddrinfo(
        config.host or None, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(_listener(family, address))
            except OSError as exc:
                # A name may have addresses of a family that this machine has not.
                if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                failure = exc
    except OSError:
        for each in sockets:
            each.close()
        raise
    if failure is not None and not sockets:
        raise failure
    return sockets


def _listener(family: socket.AddressFamily, address: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of a server that has ended keep its port for a minute otherwise.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _reachable(host: str) -> str:
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _is_answered(config: ServerConfig) -> bool:
    """Whether a program answers at the address that is to be bound."""
    if config.port == 0:
        return False
    try:
        socket.create_connection((_reachable(config.host), config.port), PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _in_use(config: ServerConfig) -> ConfigError:
    address = f"{config.host}:{config.port}"
    return ConfigError(f"{address} is in use by another program; choose another --port.")


def _cannot_bind(config: ServerConfig, exc: OSError) -> ConfigError:
    address = f"{config.host}:{config.port}"
    if exc.errno == errno.EADDRINUSE:
        return _in_use(config)
    if exc.errno == errno.EACCES:
        return ConfigError(f"{address} needs privileges; choose a --port above 1023.")
    return ConfigError(f"{address} cannot be bound: {exc.strerror or 'unknown address'}.")
