"""What all endpoints that generate text do: read, run, answer whole or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, ParamSpec, TypeVar, cast

from aiohttp import web

from budmlx.server.body import parse_json, read_body
from budmlx.server.dialects.openai.builder import ReplyBuilder
from budmlx.server.dialects.openai.sampling import GenerationRequest
from budmlx.server.event_stream import EventStream
from budmlx.server.state import CONFIG, IN_FLIGHT, NAMESPACE
from budmlx.types import Event

OFF_LOOP_BYTES = 2**14
"""Work on bodies larger than this is done in a thread, so that other streams go on."""

Events = AbstractAsyncContextManager[AsyncIterator[Event]]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


async def parsed(
    request: web.Request, parse: Callable[[dict[str, Any]], Result]
) -> tuple[Result, int]:
    """The body as `parse` understands it, and its length in bytes."""
    raw = await read_body(request, request.app[CONFIG].max_body)
    return await off_loop(len(raw), lambda: parse(parse_json(raw))), len(raw)


async def off_loop(
    size: int,
    work: Callable[Arguments, Result],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Result:
    """Do what takes time for a body of `size` bytes, in a thread if it is large."""
    if size > OFF_LOOP_BYTES:
        return await asyncio.to_thread(work, *args, **kwargs)
    return work(*args, **kwargs)


def wants_stream(request: web.Request, asked: GenerationRequest) -> bool:
    """Some clients ask for a stream by the Accept header alone."""
    if asked.stream is not None:
        return asked.stream
    return "text/event-stream" in request.headers.get("Accept", "").lower()


@asynccontextmanager
async def running(
    request: web.Request, events: AsyncIterator[Event], places: int = 1
) -> AsyncIterator[AsyncIterator[Event]]:
    """Events while they hold their places; leaving cancels what still runs."""
    closing = aclosing(cast("AsyncGenerator[Event, None]", events))
    async with request.app[IN_FLIGHT].slot(places, request.get(NAMESPACE, "")), closing:
        yield events


async def stream(request: web.Request, reply: ReplyBuilder[Any], run: Events) -> web.StreamResponse:
    """Answer with server-sent events, or raise what happened before the first one."""
    sender = EventStream(request, request.app[CONFIG], reply.opening())
    try:
        async with run as events, sender:
            async for event in events:
                for chunk in reply.chunks(event):
                    await sender.send(chunk)
    except ConnectionError:
        raise
    except Exception as exc:  # A boundary: the response has begun, no middleware can answer.
        if sender.response is None:
            raise
        return await sender.fail(exc)
    return await sender.end()
