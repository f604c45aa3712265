"""Connections: aiohttp's, with our errors, headers, access log and limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import _ErrInfo

from budmlx.engine.run.origin import RequestOrigin
from budmlx.logs import REQUEST
from budmlx.plugins.specs import RequestRecord
from budmlx.server.errors import Failure, failure_of, log_unexpected
from budmlx.server.records import (
    EXCHANGE,
    ORIGIN,
    PATHS,
    WATCHERS,
    Exchange,
    Route,
    Watcher,
    untaken,
)
from budmlx.server.security import allow_reading, request_id
from budmlx.server.state import DIALECTS, IN_FLIGHT, LIMITS, MODELS
from budmlx.server.telemetry import access_log

log = logging.getLogger(__name__)

PROBES = 3
"""That a silent client is sent before it counts as gone."""
# On macOS it has another name.
_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_UNREAD = getattr(socket, "TCP_USER_TIMEOUT", None)


class Connection(web.RequestHandler):
    """One client connection.

    aiohttp answers requests that it cannot parse, or that no route expects, in plain text
    that quotes the input; here both get an error in the dialect of the path.
    """

    __slots__ = (
        "_body",
        "_body_failed",
        "_dialects",
        "_first_request_timer",
        "_limits",
        "_watchers",
    )

    def __init__(self, manager: web.Server, app: web.Application, **options: Any):
        super().__init__(manager, **options)
        self._dialects = app[DIALECTS]
        self._limits = app[LIMITS]
        self._watchers = app[WATCHERS]
        self._body: StreamReader | None = None
        self._body_failed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock for the first request, or hang up when there are too many."""
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        limits = self._limits
        hang_up_on_vanished(transport, limits.vanished_seconds)
        self._first_request_timer = loop.call_later(limits.first_request_seconds, self._expire)
        assert self._manager is not None
        if len(self._manager.connections) > limits.max_connections:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clock."""
        self._first_request_timer.cancel()
        super().connection_lost(exc)

    def _expire(self) -> None:
        if not self._request_count:
            self.force_close()

    def data_received(self, data: bytes) -> None:
        """Parse what came. A body that turns out to be malformed fails for its reader at once.

        aiohttp queues the error of a parser behind the request whose body it is in, and leaves
        the handler of that request waiting for the rest.
        """
        if self._body_failed:
            return
        super().data_received(data)
        if not self._messages:
            return
        message, body = self._messages[-1]
        if not isinstance(message, _ErrInfo):
            self._body = body
        elif self._body is not None and not self._body.is_eof():
            self._messages.pop()
            self._body_failed = True
            self._body.set_exception(web.RequestPayloadError(message.message))
            self._body.feed_eof()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that could not be parsed, or whose handling failed.

        Raises ConnectionError if the response has begun or the client is gone.
        """
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionError("the response has begun or the client is gone")
        if status >= 500 and hdrs.EXPECT in request.headers and EXCHANGE not in request:
            # aiohttp's own answer quotes the header, also where that cannot be encoded.
            status, failure = 417, failure_of(web.HTTPExpectationFailed())
        elif status >= 500:
            failure = failure_of(exc or TimeoutError())
        elif isinstance(exc, LineTooLong):
            failure = Failure(400, "The request line or a header is too long.")
        else:
            failure = failure_of(web.HTTPBadRequest())
        response = self._dialects.of(request.path).error(request, failure)
        sign(request, response)
        response.force_close()
        if status < 500:  # It never reached the middlewares.
            self._report(request, failure)
        return response

    def log_exception(self, *args: Any, exc_info: BaseException | None = None, **kw: Any) -> None:
        """Log in one line what aiohttp ran into; a body that is none is its client's fault."""
        if exc_info is not None and not isinstance(exc_info, web.RequestPayloadError):
            log_unexpected(exc_info)

    def _report(self, request: web.BaseRequest, failure: Failure) -> None:
        exchange = Exchange(RequestOrigin(request_id(request)), "", "", generates=False)
        exchange.failure, exchange.status = failure, failure.status
        exchange.ended = time.time()
        _tell(self._watchers, exchange)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response; an exception raised outside the middlewares is turned into one."""
        if self._body is request.content:
            self._body = None  # nothing waits for the rest of it
        if isinstance(resp, web.HTTPException):
            resp = self._dialects.of(request.path).error(request, failure_of(resp))
        return await super().finish_response(request, resp, start_time)


class Listener(web.Server):
    """Makes a `Connection` for every client."""

    def __init__(self, app_server: web.Server, app: web.Application, **options: Any):
        super().__init__(
            app_server.request_handler,
            request_factory=app_server.request_factory,
            handler_cancellation=True,
        )
        self._app = app
        self._options = options

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of one connection."""
        loop = asyncio.get_running_loop()
        return Connection(self, self._app, loop=loop, **self._options)


class Runner(web.AppRunner):
    """Runs an application on `Connection`s; a vanished client cancels its handler."""

    def __init__(self, app: web.Application):
        super().__init__(app, shutdown_timeout=app[LIMITS].shutdown_seconds)

    async def _make_server(self) -> web.Server:
        limits = self.app[LIMITS]
        return Listener(
            await super()._make_server(),
            self.app,
            access_log=None,
            keepalive_timeout=limits.keepalive_seconds,
            lingering_time=limits.linger_seconds,
        )


@web.middleware
async def exchanges(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware: turns every exception into an error response, and reports how
    each request ended.

    Raises ConnectionError if the response has begun or the client is gone.
    """
    exchange = _exchange(request)
    try:
        response = await _answered(request, handler, exchange)
        exchange.status = response.status
        return response
    finally:
        report(request.app, exchange)


def _exchange(request: web.Request) -> Exchange:
    resource = request.match_info.route.resource
    path = "" if resource is None else resource.canonical
    route = request.app[PATHS].get((request.method, path)) or Route(path, generates=False)
    origin = RequestOrigin(request_id(request), route=route.path)
    exchange = Exchange(
        origin, request.method, request.rel_url.raw_path, route.generates, request.headers
    )
    origin.sink = exchange.records.append
    request[ORIGIN], request[EXCHANGE] = origin, exchange
    REQUEST.set(origin.request_id)
    return exchange


async def _answered(
    request: web.Request, handler: Handler, exchange: Exchange
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConnectionError:
        raise
    except Exception as exc:  # The outermost boundary of a request.
        exchange.failure, response = _error_response(request, exc)
        if request.writer.output_size > 0:
            exchange.status = exchange.failure.status
            raise ConnectionResetError("the response has begun") from exc
        return response


def report(app: web.Application, exchange: Exchange) -> None:
    """Tell all who watch that an exchange is over."""
    exchange.ended = time.time()
    # What goes on in the background is reported when that ends.
    exchange.origin.sink = partial(_report_late, app, exchange)
    if exchange.generates and not exchange.origin.recorded:
        record = untaken(exchange)
        if record is not None:
            exchange.records.append(record)
            if (models := app.get(MODELS)) is not None:
                models.plugins.request_finished(record)
    _tell(app[WATCHERS], exchange)


def _report_late(app: web.Application, exchange: Exchange, record: RequestRecord) -> None:
    late = replace(exchange, records=[record], ended=time.time(), late=True)
    _tell(app[WATCHERS], late)


def _tell(watchers: Sequence[Watcher], exchange: Exchange) -> None:
    for watch in watchers:
        try:
            watch(exchange)
        except Exception:  # Whoever only watches must not change what the client gets.
            log.exception("A watcher of requests failed.")
    if access_log.log.isEnabledFor(logging.INFO):
        access_log.write(exchange)


def _error_response(request: web.Request, exc: Exception) -> tuple[Failure, web.Response]:
    """The failure, and the error in the dialect of the path."""
    dialect = request.app[DIALECTS].of(request.path)
    missing = dialect.not_found(request.path) if isinstance(exc, web.HTTPNotFound) else None
    failure = missing or failure_of(exc)
    return failure, dialect.error(request, failure)


async def prepare(request: web.Request, response: web.StreamResponse) -> None:
    """Sign a response; let the connection end with it while the server drains, and after a body
    that cannot be parsed, since nobody knows where the next request begins.
    """
    sign(request, response)
    if request.app[IN_FLIGHT].draining or request.content.exception() is not None:
        response.headers["Connection"] = "close"
        response.force_close()


def sign(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Add the headers that every response carries."""
    response.headers["X-Request-Id"] = request_id(request)
    response.headers["Server"] = "budmlx"
    allow_reading(request, response)


def hang_up_on_vanished(transport: asyncio.BaseTransport, seconds: float) -> None:
    """Let the system close a connection whose other end answers nothing for so long.

    A machine that lost its network says no word: what it asked for would be computed to the end.
    """
    found = transport.get_extra_info("socket")
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    half = max(1, round(seconds / 2))
    options = {_IDLE: half, socket.TCP_KEEPINTVL: max(1, half // PROBES)}
    # What was sent and is not acknowledged counts as well, where a system knows that.
    options |= {socket.TCP_KEEPCNT: PROBES, _UNREAD: round(1000 * seconds)}
    with contextlib.suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in options.items():
            if option is not None:
                found.setsockopt(socket.IPPROTO_TCP, option, value)
