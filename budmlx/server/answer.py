"""Answers to requests for generated text, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self, cast

from aiohttp import web

from budmlx.config import ServerConfig
from budmlx.engine.engine import Engine
from budmlx.engine.models.models import ServedModel
from budmlx.engine.run.origin import RequestOrigin
from budmlx.server.dialects.base import ReplyEncoder, ShowsPrefill, StreamEncoder
from budmlx.server.errors import failure_of
from budmlx.server.limits import Limits
from budmlx.server.line_request import AnyRequest
from budmlx.server.records import EXCHANGE, ORIGIN
from budmlx.server.state import CONFIG, IN_FLIGHT, LIMITS, NAMESPACE
from budmlx.types import Completion, Event, Finished

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Headers that keep proxies from holding back a stream."""
LOADED_SECONDS = 0.01
"""A request that waited longer than this for its model had to wait for a load."""

Events = AsyncIterator[Event]
Collect = Callable[[Sequence[Event]], Completion]
Run = Callable[[Engine], Awaitable[Events]]
"""Runs a request on the engine of its model, which is loaded by then."""


async def whole(
    request: AnyRequest,
    model: ServedModel,
    encoder: ReplyEncoder,
    run: Run,
    collect: Collect,
    places: int = 1,
) -> web.Response:
    """Answer when all is generated. places: the number that the request holds in flight."""
    async with _events(request, model, encoder, run, places) as events:
        # Encoders may use the engine, which may be gone after the block.
        body = encoder.whole(collect([event async for event in events]))
    return web.Response(body=body, content_type="application/json", headers=encoder.headers)


async def streamed(
    request: web.Request, model: ServedModel, encoder: ReplyEncoder, run: Run, places: int = 1
) -> web.StreamResponse:
    """Answer event by event, or raise an error from before the first one. See `whole`."""
    sender = EventStream(request, encoder, request.app[CONFIG], request.app[LIMITS])
    try:
        async with sender, _events(request, model, encoder, run, places) as events:
            async for event in events:
                await sender.start()
                await sender.send(encoder.chunks(event))
    except ConnectionError:
        raise
    except Exception as exc:  # A boundary: the response has begun, so no middleware can answer.
        if sender.response is None:
            raise
        sender.close()
        request[EXCHANGE].failure = failure = failure_of(exc)
        await sender.send(encoder.failure(failure))
        return sender.response
    await sender.start()
    await sender.send(encoder.end())
    assert sender.response is not None
    return sender.response


@asynccontextmanager
async def _events(
    request: AnyRequest, model: ServedModel, encoder: ReplyEncoder, run: Run, places: int
) -> AsyncIterator[Events]:
    """`running`, for a request."""
    origin = request[ORIGIN]
    origin.response_id = encoder.id
    key = request.get(NAMESPACE, "")
    async with running(request.app, model, run, places=places, key=key, origin=origin) as events:
        yield events


@asynccontextmanager
async def running(
    app: web.Application,
    model: ServedModel,
    run: Run,
    *,
    places: int = 1,
    key: str = "",
    origin: RequestOrigin | None = None,
) -> AsyncIterator[Events]:
    """Hold places, load the model if need be, and run; leaving the block cancels the generation.

    It needs no connection, so that work can go on without one. key: identifies the API key.
    """
    async with app[IN_FLIGHT].slot(places, key, model=model.name, origin=origin):
        begin = time.monotonic()
        async with model.aengine() as engine:
            waited = time.monotonic() - begin
            events = await run(engine)
            async with aclosing(cast("AsyncGenerator[Event, None]", events)):
                yield _queued(events, waited) if waited > LOADED_SECONDS else events


async def _queued(events: Events, seconds: float) -> Events:
    """The events, with the time that the request waited for its model counted as in the queue."""
    async for event in events:
        if isinstance(event, Finished):
            queue = event.timing.queue + seconds
            event = replace(event, timing=replace(event.timing, queue=queue))
        yield event


class EventStream:
    """Writes the bytes of an encoder, and its keep-alive while the engine is silent.

    The headers are held back until `start`, so that an early error can still have its own
    status; after `hold_seconds` the stream starts anyway. While a long prompt is computed, the
    keep-alive of an encoder that `ShowsPrefill` says how far it is. Use it as an async context
    manager around the work that produces the events.
    """

    def __init__(
        self, request: web.Request, encoder: StreamEncoder, config: ServerConfig, limits: Limits
    ):
        self._request = request
        self._hold = config.hold_seconds
        self._pause = config.keepalive_seconds
        self._stalled = limits.stalled_seconds
        self._encoder = encoder
        if ORIGIN not in request:
            request[ORIGIN] = RequestOrigin()
        self._origin = request[ORIGIN]
        self._lock = asyncio.Lock()
        self._last_write = 0.0
        self.response: web.StreamResponse | None = None

    async def __aenter__(self) -> Self:
        self._keeper = asyncio.create_task(self._keep_alive())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._keeper.cancel()
        await asyncio.wait([self._keeper])
        if not self._keeper.cancelled():
            self._keeper.exception()  # The client is gone, which cancels the handler, too.

    async def start(self) -> None:
        """Send the headers and the opening, unless they have been sent.

        Raises ConnectionError when the client is gone or does not read, as the other methods do.
        """
        async with self._lock:
            if self.response is None:
                kind = {"Content-Type": self._encoder.stream_type}
                response = web.StreamResponse(headers={**HEADERS, **kind, **self._encoder.headers})
                await response.prepare(self._request)
                self.response = response
                await self._write(self._encoder.opening())

    async def send(self, data: bytes) -> None:
        """Send events of a stream that has started."""
        if data:
            await self._write(data)

    def close(self) -> None:
        """Let the connection end with the stream, which has started."""
        assert self.response is not None
        self.response.force_close()

    async def _write(self, data: bytes) -> None:
        """Write and wait while the client's buffers are full."""
        assert self.response is not None
        self._last_write = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._stalled):
                await self.response.write(data)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client does not read") from None

    def _still_there(self) -> bytes:
        prefilled, encoder = self._origin.prefilled, self._encoder
        if prefilled is None or not isinstance(encoder, ShowsPrefill):
            return encoder.keep_alive()
        return encoder.prefilled(*prefilled)

    async def _keep_alive(self) -> None:
        await asyncio.sleep(self._hold)
        await self.start()
        loop = asyncio.get_running_loop()
        while True:
            silence = loop.time() - self._last_write
            if silence >= self._pause:
                await self._write(self._still_there())
            else:
                await asyncio.sleep(self._pause - silence)
