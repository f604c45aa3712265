"""`POST /v1/messages` and `/v1/messages/count_tokens`: what answers them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import web
from msgspec import Struct

from budmlx.engine.engine import Engine
from budmlx.engine.reply.completion import completion
from budmlx.errors import InvalidRequestError
from budmlx.server import answer
from budmlx.server.body import off_loop, parsed
from budmlx.server.dialects.anthropic.body import CountTokensRequest, MessagesRequest
from budmlx.server.dialects.anthropic.errors import STATUSES
from budmlx.server.dialects.anthropic.history import History
from budmlx.server.dialects.anthropic.reply import STREAMED, MessageOut, MessageReply
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.line_request import AnyRequest, LineRequest
from budmlx.server.records import ORIGIN
from budmlx.server.security import find_model, priority_of, request_id
from budmlx.server.state import CONFIG, NAMESPACE, SEALER
from budmlx.server.warnings_header import warnings_header
from budmlx.types import Event, Request

endpoints = EndpointTable("/v1", STATUSES)


@endpoints.post(
    "/v1/messages",
    "Answer a conversation, in Anthropic's protocol",
    MessagesRequest,
    reply=MessageOut,
    streamed=STREAMED,
)
async def create_message(request: web.Request) -> web.StreamResponse:
    """Answer a conversation, as JSON or as a stream of events."""
    return await _answered(request, *await parsed(request, MessagesRequest.parse))


async def answer_line(request: LineRequest, body: dict[str, Any], size: int) -> web.StreamResponse:
    """Answer a conversation that came in a file."""
    return await _answered(request, await off_loop(size, MessagesRequest.parse, body), size)


async def _answered(request: AnyRequest, body: MessagesRequest, size: int) -> web.StreamResponse:
    config = request.app[CONFIG]
    warnings = body.review(strict=config.strict)
    model = await find_model(request, body.model)
    sealer = request.app[SEALER]
    generation, history = await off_loop(size, body.to_request, sealer)
    generation = replace(
        generation,
        incremental_calls=config.incremental_tool_calls,
        namespace=request.get(NAMESPACE, ""),
        priority=priority_of(request, body.priority, low=body.low_priority),
        adapter=body.adapter_of(model),
    )
    warnings += history.warnings
    origin = request[ORIGIN]
    reply = MessageReply(
        *(body.model, body.max_tokens, request_id(request), warnings),
        sealed=sealer.seal,
        usage=lambda: origin.usage,
    )

    async def run(engine: Engine) -> answer.Events:
        warnings.extend(await off_loop(size, _warnings, engine, generation, history))
        return _in_request(engine.aevents(generation, origin), history)

    if isinstance(request, web.Request) and body.wants_stream(request.headers):
        return await answer.streamed(request, model, reply, run)
    collect = partial(completion, model.name, warnings)
    return await answer.whole(request, model, reply, run, collect)


def _warnings(engine: Engine, request: Request, history: History) -> list[str]:
    """Warnings of the loaded model, which name places in the client's request."""
    try:
        return [history.in_request(warning) for warning in engine.warnings(request)]
    except InvalidRequestError as error:
        raise _renamed(error, history) from None


async def _in_request(
    events: AsyncGenerator[Event, None], history: History
) -> AsyncGenerator[Event, None]:
    """The events; an error names the place in the client's request."""
    try:
        async for event in events:
            yield event
    except InvalidRequestError as error:
        raise _renamed(error, history) from None
    finally:
        await events.aclose()


def _renamed(error: InvalidRequestError, history: History) -> InvalidRequestError:
    error.message = history.in_request(error.message)
    error.param = error.param and history.in_request(error.param)
    return error


class TokenCount(Struct, frozen=True):
    """How many tokens the prompt has."""

    input_tokens: int


@endpoints.post(
    "/v1/messages/count_tokens",
    "Count the tokens of a conversation",
    CountTokensRequest,
    reply=TokenCount,
    brief=True,
)
async def count_tokens(request: web.Request) -> web.Response:
    """Count the tokens of the prompt that a conversation becomes; nothing is queued."""
    body, size = await parsed(request, CountTokensRequest.parse)
    warnings = body.review(strict=request.app[CONFIG].strict)
    model = await find_model(request, body.model)
    counted, history = await off_loop(size, body.read, request.app[SEALER])
    warnings += history.warnings
    async with model.aengine() as engine:
        try:
            count = await asyncio.to_thread(engine.count_tokens, counted)
        except InvalidRequestError as error:
            raise _renamed(error, history) from None
    headers = {"Request-Id": request_id(request), **warnings_header(warnings)}
    return as_json(TokenCount(count), headers)
