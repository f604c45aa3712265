"""One reply as a stream of server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

from budmlx.config import ServerConfig
from budmlx.server.errors import failure_of

STALLED_SECONDS = 30.0
"""A client that reads nothing for so long is cut off."""

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class EventStream:
    """Writes `data:` lines, and comments while there is nothing to say.

    The headers are held back until the first event, so that an early error can still have
    its own status; after `hold_seconds` the stream starts anyway. Use it as an async
    context manager around the work that produces the events.

    opening: the first events, sent when the stream starts.
    """

    def __init__(self, request: web.Request, config: ServerConfig, opening: Sequence[bytes]):
        self._request = request
        self._hold = config.hold_seconds
        self._pause = config.keepalive_seconds
        self._opening = opening
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

    async def send(self, event: bytes) -> None:
        """Send one event. Raises ConnectionError when the client is gone or stalled."""
        await self._write(await self._started(), _frame(event))

    async def end(self) -> web.StreamResponse:
        """Send the end marker and return the response."""
        response = await self._started()
        await self._write(response, b"data: [DONE]\n\n")
        return response

    async def fail(self, exc: Exception) -> web.StreamResponse:
        """Send an error as the last event, without the end marker, and return the response."""
        response = await self._started()
        response.force_close()
        await self._write(response, _frame(error_event(exc)))
        return response

    async def _started(self) -> web.StreamResponse:
        async with self._lock:
            if self.response is None:
                response = web.StreamResponse(headers=HEADERS)
                await response.prepare(self._request)
                self.response = response
                await self._write(response, b"".join(map(_frame, self._opening)))
            return self.response

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        """Write and wait while the client's buffers are full."""
        self._last_write = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                await response.write(data)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client does not read") from None

    async def _keep_alive(self) -> None:
        await asyncio.sleep(self._hold)
        response = await self._started()
        loop = asyncio.get_running_loop()
        while True:
            silence = loop.time() - self._last_write
            if silence >= self._pause:
                await self._write(response, b": ping\n\n")
            else:
                await asyncio.sleep(self._pause - silence)


def error_event(exc: Exception) -> bytes:
    """What a stream that has begun says of a failure."""
    failure = failure_of(exc)
    body = {"error": failure.body()["error"], "status_code": failure.status}
    return msgspec.json.encode(body)


def _frame(event: bytes) -> bytes:
    return b"data: " + event + b"\n\n"
