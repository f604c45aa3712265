"""The HTTP server: the application, its life from bind to drain."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Self

from aiohttp import web

from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.errors import ConfigError, EngineUnavailableError
from budmlx.open_files import connections_within
from budmlx.plugins.routes import ENGINE, FIND
from budmlx.plugins.routes import MODELS as PLUGIN_MODELS
from budmlx.server.awake import Awake
from budmlx.server.batches.runner import BATCHES, Batches
from budmlx.server.dialects.base import Dialects
from budmlx.server.dialects.registry import DIALECTS as REGISTERED
from budmlx.server.in_flight import InFlight
from budmlx.server.keys import KeyRing
from budmlx.server.lag import LagMonitor
from budmlx.server.ledger import Ledger
from budmlx.server.limits import DEFAULTS, Limits
from budmlx.server.line_request import LINES
from budmlx.server.listening import (
    ACCEPTED,
    BACKLOG,
    Listening,
    listen,
    tell_of_open_files,
)
from budmlx.server.plugin_routes import add_plugin_routes
from budmlx.server.rate_limit import LIMITER, RateLimiter, brief_paths
from budmlx.server.records import PATHS, WATCHERS, paths_of
from budmlx.server.reload import RELOADER, Read, Reloader
from budmlx.server.routes import (
    docs,
    health,
    library,
    log_level,
    metrics,
    page,
    reload,
    usage,
    watch,
)
from budmlx.server.routes import models as model_routes
from budmlx.server.routes.watch import totals
from budmlx.server.sealed import Sealer
from budmlx.server.security import find_model, guard
from budmlx.server.state import (
    CONFIG,
    DIALECTS,
    ENDPOINTS,
    FILES,
    IN_FLIGHT,
    KEYS,
    LEDGER,
    LIMITS,
    MODELS,
    SEALER,
    STORE,
)
from budmlx.server.stopping import StopSignals
from budmlx.server.stores import Stores
from budmlx.server.telemetry.history import HISTORY, History
from budmlx.server.telemetry.metrics import METRICS, RECENT, Metrics, Recent
from budmlx.server.transport import Runner, exchanges, prepare

log = logging.getLogger(__name__)

TRACING = "budmlx.server.telemetry.traces"

ROUTES = (
    library.endpoints,
    model_routes.endpoints,
    health.endpoints,
    log_level.endpoints,
    reload.endpoints,
    usage.endpoints,
    metrics.endpoints,
    docs.endpoints,
    page.endpoints,
    watch.endpoints,
)


def create_app(
    models: Models,
    config: Config,
    dialects: Dialects = REGISTERED,
    *,
    limits: Limits = DEFAULTS,
    read: Read | None = None,
    stores: Stores | None = None,
) -> web.Application:
    """The application with all routes and middlewares. Raises ConfigError for unusable keys, an
    unusable store, and traces without the packages for them.

    read: reads the configuration again. stores: closed with the application; opened here if need
    be.
    """
    brief = brief_paths(chain.from_iterable(each.endpoints for each in dialects))
    limiter = RateLimiter(config.requests_per_minute, config.concurrent_requests, brief)
    app = _application(config, dialects, limits, limiter)
    app[LIMITER] = limiter
    app[RELOADER] = Reloader(app, config, read)
    app[MODELS] = app[PLUGIN_MODELS] = models
    app[FIND] = find_model
    if (engine := models.only) is not None:
        app[ENGINE] = engine
    app[IN_FLIGHT] = InFlight(_rows(models, config) + config.max_queue)
    _stay_awake(app)
    stores = stores or Stores(config)
    app[STORE] = stores.records
    app[LEDGER] = Ledger(app[STORE])
    if config.store is None and any(key.tokens_per_day for key in app[KEYS].all):
        log.warning("Tokens per day are counted anew after a restart; --store keeps the count.")
    app[LINES] = {}
    for dialect in dialects:
        dialect.set_up(app)
    app[FILES] = stores.files
    _run_batches(app, config)
    app.on_cleanup.append(_close_store)
    app[RECENT] = recent = Recent()
    app[WATCHERS] = (recent.watch,)
    app[HISTORY] = History(partial(totals, app))
    if config.metrics:
        _count(app)
    if config.otlp_traces_endpoint:
        _trace(app, config.otlp_traces_endpoint)
    app[ENDPOINTS] = others = tuple(chain(*ROUTES))
    endpoints = [*others, *chain.from_iterable(dialect.endpoints for dialect in dialects)]
    app[PATHS] = paths_of(endpoints)
    for endpoint in endpoints:
        app.add_routes(endpoint.routes())
    add_plugin_routes(app, models.plugins)
    return app


def _stay_awake(app: web.Application) -> None:
    """Keep a Mac awake while requests run."""
    if (awake := Awake.of_this_machine()) is None:
        return

    async def close(_: web.Application) -> None:
        awake.close()

    app[IN_FLIGHT].watch = awake
    app.on_cleanup.append(close)


def _count(app: web.Application) -> None:
    """Count what happens, for `GET /metrics`."""
    counted = Metrics(app[MODELS], app[IN_FLIGHT])
    counted.batches = app[BATCHES].tally
    app[METRICS], app[WATCHERS] = counted, (*app[WATCHERS], counted.watch)


def _trace(app: web.Application, endpoint: str) -> None:
    """Send traces of requests. Raises ConfigError if the extra for it is not installed."""
    try:
        traces = importlib.import_module(TRACING).Traces(endpoint)
    except ImportError as error:
        raise ConfigError(
            "otlp_traces_endpoint needs packages of OpenTelemetry: install budmlx[otel].",
            param="otlp_traces_endpoint",
        ) from error

    async def close(_: web.Application) -> None:
        await asyncio.to_thread(traces.close)

    app[WATCHERS] = (*app[WATCHERS], traces.watch)
    app.on_cleanup.append(close)


def _run_batches(app: web.Application, config: Config) -> None:
    """Answer what batches ask."""
    app[BATCHES] = batches = Batches(app, app[FILES], config.batch_lines)
    app.on_startup.append(batches.start)
    app.on_cleanup.append(batches.close)


async def _close_store(app: web.Application) -> None:
    app[LEDGER].close()
    app[STORE].close()


def _rows(models: Models, config: Config) -> int:
    """The most rows that a model runs at once."""
    if models.only is not None:
        return config.for_model().max_rows
    return max(each.spec.config.max_rows for each in models.residents)


def create_loading_app(config: Config, dialects: Dialects = REGISTERED) -> web.Application:
    """The application while a model is loaded: `/health` and the page answer as ever, all else
    gets 503.

    Raises ConfigError for unusable keys.
    """
    app = _application(config, dialects, DEFAULTS)
    app[IN_FLIGHT] = in_flight = InFlight(0)
    in_flight.draining = True  # each connection ends with its first reply
    for endpoint in health.endpoints:
        waits = endpoint.handler is health.ready
        app.add_routes((replace(endpoint, handler=_loading) if waits else endpoint).routes())
    for endpoint in page.endpoints:
        app.add_routes(endpoint.routes())
    app.router.add_route("*", "/{path:.*}", _loading)
    return app


async def _loading(request: web.Request) -> web.StreamResponse:
    raise EngineUnavailableError("The model is being loaded; retry later.")


def _application(
    config: Config, dialects: Dialects, limits: Limits, limiter: RateLimiter | None = None
) -> web.Application:
    keys = KeyRing(config)
    app = web.Application(
        middlewares=[exchanges, guard(config, keys, limiter)],
        client_max_size=config.max_body,
    )
    app[CONFIG] = config
    app[KEYS] = keys
    most = connections_within(limits.max_connections)
    app[LIMITS] = replace(limits, max_connections=most)
    app[SEALER] = Sealer(config.seal_key and config.seal_key.expanduser())
    app[DIALECTS] = dialects
    app[PATHS], app[WATCHERS] = {}, ()
    app.on_response_prepare.append(prepare)
    return app


class HttpServer:
    """A bound server. Use `start` to make one and `drain` to end it."""

    def __init__(self, app: web.Application, runner: Runner, listening: Listening):
        self.url = listening.url
        self.port = listening.port
        self.models = app[MODELS]
        self.in_flight = app[IN_FLIGHT]
        self.history = app[HISTORY]
        self._app = app
        self._runner = runner
        if (metrics := app.get(METRICS)) is not None:
            metrics.connections = lambda: self.connections

    @classmethod
    async def start(
        cls,
        models: Models,
        config: Config,
        *,
        limits: Limits = DEFAULTS,
        listening: Listening | None = None,
        read: Read | None = None,
        stores: Stores | None = None,
    ) -> Self:
        """Serve on `listening`, which is closed with the server, or else at the config's address.

        read, stores: see `create_app`. Raises ConfigError, see `listen`.
        """
        app = create_app(models, config, limits=limits, read=read, stores=stores)
        listening = listening or listen(config)
        runner = Runner(app)
        await runner.setup()
        for each in listening.sockets:
            # asyncio accepts so many connections in a row, also when there is no file for them.
            site = web.SockSite(runner, each, backlog=ACCEPTED, ssl_context=listening.ssl)
            await site.start()
            each.listen(BACKLOG)
        return cls(app, runner, listening)

    @property
    def connections(self) -> int:
        """The number of connected clients."""
        return len(self._runner.server.connections) if self._runner.server else 0

    async def drain(self) -> None:
        """Accept no more clients, let replies finish for `drain_seconds`, end the rest, unbind."""
        seconds = self._app[CONFIG].drain_seconds
        begin = time.monotonic()
        for site in self._runner.sites:
            await site.stop()
        await self._app[BATCHES].stop()
        cut = await self.in_flight.drain(seconds)
        await self._runner.cleanup()
        spent = time.monotonic() - begin
        log.info("All requests have ended after %.1f s, %d of them before their time", spent, cut)


async def serve(
    models: Models,
    config: Config,
    announce: Callable[[str], None] = print,
    listening: Listening | None = None,
    read: Read | None = None,
    stores: Stores | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then drain. A second SIGTERM or SIGINT ends the
    process at once. SIGHUP does nothing where it is ignored already, as under nohup.

    announce: called with the base URL once requests are answered.
    listening, read, stores, and what is raised: see `HttpServer.start`.
    """
    asyncio.get_running_loop().set_exception_handler(tell_of_open_files())
    server = await HttpServer.start(models, config, listening=listening, read=read, stores=stores)
    signals = StopSignals()
    announce(server.url)
    with LagMonitor(), server.history.looking():
        await signals.wait()
    signals.end_with_the_next(lambda: server.in_flight.count)
    states = [engine.status() for engine in models.loaded]
    log.info(
        "%s received: shutting down. Requests: %d; rows that run: %d, and wait: %d. "
        "They have %g s; another signal ends all at once",
        signals.first,
        server.in_flight.count,
        sum(state.running for state in states),
        sum(state.waiting for state in states),
        config.drain_seconds,
    )
    await server.drain()
