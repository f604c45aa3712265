"""Answers a request with what the engine generates, whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import cast

from aiohttp import web

from budmlx.server.dialects.base import ReplyEncoder
from budmlx.server.errors import failure_of
from budmlx.server.event_stream import EventStream
from budmlx.server.state import CONFIG, IN_FLIGHT, NAMESPACE
from budmlx.types import Completion, Event

Events = AsyncIterator[Event]
Collect = Callable[[Sequence[Event]], Completion]


async def whole(
    request: web.Request, encoder: ReplyEncoder, events: Events, collect: Collect, places: int = 1
) -> web.Response:
    """Answer when all is generated. places: how many the events hold while they run."""
    async with _in_flight(request, events, places):
        done = collect([event async for event in events])
    return web.Response(
        body=encoder.whole(done), content_type="application/json", headers=encoder.headers
    )


async def streamed(
    request: web.Request, encoder: ReplyEncoder, events: Events, places: int = 1
) -> web.StreamResponse:
    """Answer event by event, or raise what happened before the first one. See `whole`."""
    sender = EventStream(request, request.app[CONFIG], encoder)
    try:
        async with _in_flight(request, events, places), sender:
            async for event in events:
                await sender.start()
                await sender.send(encoder.chunks(event))
    except ConnectionError:
        raise
    except Exception as exc:  # A boundary: the response has begun, so no middleware can answer.
        if sender.response is None:
            raise
        sender.close()
        await sender.send(encoder.failure(failure_of(exc)))
        return sender.response
    await sender.start()
    await sender.send(encoder.end())
    assert sender.response is not None
    return sender.response


@asynccontextmanager
async def _in_flight(request: web.Request, events: Events, places: int) -> AsyncIterator[None]:
    """Hold places for the events; leaving cancels what still runs."""
    closing = aclosing(cast("AsyncGenerator[Event, None]", events))
    async with request.app[IN_FLIGHT].slot(places, request.get(NAMESPACE, "")), closing:
        yield
