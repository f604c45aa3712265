"""The HTTP server: the application, its life from bind to drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import sys
from collections.abc import Callable
from itertools import chain
from typing import Self

from aiohttp import web

from budmlx.config import Config, ServerConfig
from budmlx.engine.models import ModelSet
from budmlx.errors import ConfigError
from budmlx.plugins.routes import ENGINE
from budmlx.server.dialects.base import Dialects
from budmlx.server.dialects.registry import DIALECTS as REGISTERED
from budmlx.server.in_flight import InFlight
from budmlx.server.limits import DEFAULTS, Limits
from budmlx.server.plugin_routes import add_plugin_routes
from budmlx.server.rate_limit import rate_limits
from budmlx.server.records import GENERATING, generating
from budmlx.server.routes import docs, health, models
from budmlx.server.security import bracketed, check_bind, guard
from budmlx.server.state import CONFIG, DIALECTS, ENDPOINTS, IN_FLIGHT, LIMITS, MODELS
from budmlx.server.transport import Runner, answer_errors, prepare

ROUTES = (models.endpoints, health.endpoints, docs.endpoints)
BACKLOG = 1024
# There, one program may bind an address beside another that has the same port on all addresses.
SHARES_PORTS = sys.platform == "darwin"
PROBE_SECONDS = 1.0


def create_app(
    model_set: ModelSet,
    config: Config,
    dialects: Dialects = REGISTERED,
    *,
    limits: Limits = DEFAULTS,
) -> web.Application:
    """The application with all routes and middlewares. Raises ConfigError for unusable keys."""
    app = web.Application(
        middlewares=[answer_errors, guard(config), *rate_limits(config)],
        client_max_size=config.max_body,
    )
    app[CONFIG] = config
    app[LIMITS] = limits
    app[MODELS] = model_set
    app[ENGINE] = model_set.engine
    app[DIALECTS] = dialects
    app[GENERATING] = generating(dialects)
    app[ENDPOINTS] = others = tuple(chain(*ROUTES))
    app[IN_FLIGHT] = InFlight(config.for_model().max_rows + config.max_queue)
    app.on_response_prepare.append(prepare)
    for endpoint in chain(others, *(dialect.endpoints for dialect in dialects)):
        app.add_routes(endpoint.routes())
    add_plugin_routes(app, model_set.engine.plugins)
    return app


class HttpServer:
    """A bound server. Use `start` to make one and `drain` to end it."""

    def __init__(self, app: web.Application, runner: Runner, url: str, port: int):
        self.url = url
        self.port = port
        self.model_set = app[MODELS]
        self.in_flight = app[IN_FLIGHT]
        self._app = app
        self._runner = runner

    @classmethod
    async def start(cls, model_set: ModelSet, config: Config, *, limits: Limits = DEFAULTS) -> Self:
        """Bind and serve. Raises ConfigError when the address is taken, unknown or unsafe."""
        check_bind(config)
        if SHARES_PORTS and await _is_answered(config):
            raise _in_use(config)
        app = create_app(model_set, config, limits=limits)
        runner = Runner(app)
        await runner.setup()
        site = web.TCPSite(runner, config.host, config.port, backlog=BACKLOG)
        try:
            await site.start()
        except OSError as exc:
            await runner.cleanup()
            raise _cannot_bind(config, exc) from exc
        return cls(app, runner, _local_url(config.host, site.port), site.port)

    @property
    def connections(self) -> int:
        """The number of connected clients."""
        return len(self._runner.server.connections) if self._runner.server else 0

    async def drain(self) -> None:
        """Accept no more clients, let replies finish for `drain_seconds`, end the rest, unbind."""
        for site in self._runner.sites:
            await site.stop()
        await self.in_flight.drain(self._app[CONFIG].drain_seconds)
        await self._runner.cleanup()


def _local_url(host: str, port: int) -> str:
    """An address that works on this machine, for a wildcard too."""
    return f"http://{bracketed(_reachable(host))}:{port}"


def _reachable(host: str) -> str:
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


async def _is_answered(config: ServerConfig) -> bool:
    """Whether a program answers at the address that is to be bound."""
    if config.port == 0:
        return False
    connecting = asyncio.open_connection(_reachable(config.host), config.port)
    try:
        _, writer = await asyncio.wait_for(connecting, PROBE_SECONDS)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
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


async def serve(
    model_set: ModelSet, config: Config, announce: Callable[[str], None] = print
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then drain. A second SIGTERM or SIGINT ends the
    process at once. SIGHUP does nothing where it is ignored already, as under nohup.

    announce: called with the base URL once requests are answered.
    Raises ConfigError, see `HttpServer.start`.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    server = await HttpServer.start(model_set, config)
    second = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.SIG_DFL}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        # When a terminal closes, both the shell and the system send it.
        second[signal.SIGHUP] = signal.SIG_IGN
    for number in second:
        loop.add_signal_handler(number, stop.set)
    announce(server.url)
    await stop.wait()
    for number, action in second.items():
        loop.remove_signal_handler(number)
        signal.signal(number, action)
    await server.drain()
