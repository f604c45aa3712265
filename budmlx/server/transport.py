"""Connections: aiohttp's, with our errors, headers, access log and limits."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import _ErrInfo

from budmlx.server.dialects.base import Dialects
from budmlx.server.errors import Failure, failure_of
from budmlx.server.limits import Limits
from budmlx.server.security import allow_reading, request_id
from budmlx.server.state import DIALECTS, IN_FLIGHT, LIMITS

log = logging.getLogger("budmlx.access")


class Connection(web.RequestHandler):
    """One client connection.

    aiohttp answers requests that it cannot parse, or that no route expects, in plain text
    that quotes the input; here both get an error in the dialect of the path.
    """

    __slots__ = ("_body", "_body_failed", "_dialects", "_first_request_timer", "_limits")

    def __init__(self, manager: web.Server, dialects: Dialects, limits: Limits, **options: Any):
        super().__init__(manager, **options)
        self._dialects = dialects
        self._limits = limits
        self._body: StreamReader | None = None
        self._body_failed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock for the first request, or hang up when there are too many."""
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        limits = self._limits
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
        if status >= 500:
            failure = failure_of(exc or TimeoutError())
        elif isinstance(exc, LineTooLong):
            failure = Failure(400, "The request line or a header is too long.")
        else:
            failure = failure_of(web.HTTPBadRequest())
        response = self._dialects.of(request.path).error(request, failure)
        sign(request, response)
        response.force_close()
        return response

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

    def __init__(self, app_server: web.Server, dialects: Dialects, limits: Limits, **options: Any):
        super().__init__(
            app_server.request_handler,
            request_factory=app_server.request_factory,
            handler_cancellation=True,
        )
        self._dialects = dialects
        self._limits = limits
        self._options = options

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of one connection."""
        loop = asyncio.get_running_loop()
        return Connection(self, self._dialects, self._limits, loop=loop, **self._options)


class Runner(web.AppRunner):
    """Runs an application on `Connection`s; a vanished client cancels its handler."""

    def __init__(self, app: web.Application):
        super().__init__(app, shutdown_timeout=app[LIMITS].shutdown_seconds)

    async def _make_server(self) -> web.Server:
        limits = self.app[LIMITS]
        return Listener(
            await super()._make_server(),
            self.app[DIALECTS],
            limits,
            access_log=log,
            access_log_class=AccessLog,
            keepalive_timeout=limits.keepalive_seconds,
            lingering_time=limits.linger_seconds,
        )


class AccessLog(AbstractAccessLogger):
    """One bounded line per request, without query strings, headers or bodies."""

    @property
    def enabled(self) -> bool:
        """Whether the lines are logged at all."""
        return self.logger.isEnabledFor(logging.INFO)

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write method, path, status, duration and request id."""
        path = ascii(request.rel_url.raw_path[:200])[1:-1]
        self.logger.info(
            "%s %s %d %.3fs %s", request.method, path, response.status, time, request_id(request)
        )


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware: turns every exception into an error response.

    Raises ConnectionError if the response has begun or the client is gone.
    """
    try:
        return await handler(request)
    except ConnectionError:
        raise
    except Exception as exc:  # The outermost boundary of a request.
        response = _error_response(request, exc)
        if request.writer.output_size > 0:
            raise ConnectionResetError("the response has begun") from exc
        return response


def _error_response(request: web.Request, exc: Exception) -> web.Response:
    """The error in the dialect of the path."""
    dialect = request.app[DIALECTS].of(request.path)
    missing = dialect.not_found(request.path) if isinstance(exc, web.HTTPNotFound) else None
    return dialect.error(request, missing or failure_of(exc))


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
