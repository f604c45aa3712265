"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from typing import cast

from aiohttp import web

from budmlx.engine.completion import completion
from budmlx.engine.engine import Engine
from budmlx.server.admission import InFlight
from budmlx.server.jsonbody import parse_json, read_body
from budmlx.server.sse import EventStream
from budmlx.server.state import CONFIG, IN_FLIGHT, MODELS, NAMESPACE
from budmlx.server.wire.chat import ChatRequest
from budmlx.server.wire.reply import Reply
from budmlx.types import Event, Request

routes = web.RouteTableDef()

OFF_LOOP_BYTES = 2**16
"""Bodies larger than this are parsed in a thread, so that other streams go on."""

Events = AbstractAsyncContextManager[AsyncIterator[Event]]


@routes.post("/v1/chat/completions")
async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer a conversation, as JSON or as a stream of events."""
    config = request.app[CONFIG]
    raw = await read_body(request, config.max_body)
    chat = await asyncio.to_thread(_parse, raw) if len(raw) > OFF_LOOP_BYTES else _parse(raw)
    streaming = _wants_stream(request, chat)
    warnings = chat.review(streaming=streaming, strict=config.strict)
    engine = request.app[MODELS].resolve(chat.model)
    asked = replace(
        chat.to_request(incremental_calls=config.incremental_tool_calls),
        namespace=request.get(NAMESPACE, ""),
    )
    warnings += engine.warnings(asked)
    reply = Reply(chat, engine.info.fingerprint, warnings)
    running = _events(request.app[IN_FLIGHT], engine, asked)
    if streaming:
        return await _stream(request, reply, running)
    async with running as events:
        done = completion(engine.info.name, warnings, [event async for event in events])
    return web.Response(body=reply.whole(done), content_type="application/json")


def _parse(raw: bytes) -> ChatRequest:
    return ChatRequest.parse(parse_json(raw))


def _wants_stream(request: web.Request, chat: ChatRequest) -> bool:
    """Some clients ask for a stream by the Accept header alone."""
    if chat.stream is not None:
        return chat.stream
    return "text/event-stream" in request.headers.get("Accept", "").lower()


@asynccontextmanager
async def _events(
    in_flight: InFlight, engine: Engine, asked: Request
) -> AsyncIterator[AsyncIterator[Event]]:
    """The events of a request while it holds a place; leaving cancels what still runs."""
    events = cast("AsyncGenerator[Event, None]", engine.aevents(asked))
    async with in_flight.slot(), aclosing(events):
        yield events


async def _stream(request: web.Request, reply: Reply, running: Events) -> web.StreamResponse:
    stream = EventStream(request, request.app[CONFIG], reply.opening())
    try:
        async with running as events, stream:
            async for event in events:
                for chunk in reply.chunks(event):
                    await stream.send(chunk)
    except ConnectionError:
        raise
    except Exception as exc:  # A boundary: the response has begun, no middleware can answer.
        if stream.response is None:
            raise
        return await stream.fail(exc)
    return await stream.end()
