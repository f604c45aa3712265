"""`POST /v1/responses`: answers the items of a conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import web

from budmlx.engine.engine import Engine
from budmlx.engine.reply.completion import completion
from budmlx.engine.run.origin import RequestOrigin
from budmlx.errors import InvalidRequestError
from budmlx.server import answer
from budmlx.server.body import off_loop, parsed
from budmlx.server.dialects.responses.asked import Asked
from budmlx.server.dialects.responses.body import ResponsesRequest
from budmlx.server.dialects.responses.encoder import Reply
from budmlx.server.dialects.responses.jobs import Job, stream_job
from budmlx.server.dialects.responses.reply import ReplyBuilder
from budmlx.server.dialects.responses.shapes import Response, ResponseEvent
from budmlx.server.dialects.responses.state import JOBS, KEPT
from budmlx.server.endpoints import EndpointTable, Streamed
from budmlx.server.json_reply import as_json
from budmlx.server.line_request import AnyRequest, LineRequest
from budmlx.server.records import ORIGIN
from budmlx.server.security import find_model, priority_of
from budmlx.server.state import CONFIG, NAMESPACE, SEALER
from budmlx.server.warnings_header import warnings_header

EVENTS = Streamed(
    "text/event-stream",
    "Server-sent events, each with its type as `event:` and the JSON of a ResponseEvent as "
    "`data:`. The last one is `response.completed`, `response.incomplete` or `response.failed`. "
    "While nothing happens, `response.in_progress` is repeated; while a long prompt is computed, "
    "its `prefill` says how far that is.",
    ResponseEvent,
)

endpoints = EndpointTable("/v1")


@endpoints.post("/v1/responses", "Answer items", ResponsesRequest, Response, EVENTS)
async def create(request: web.Request) -> web.StreamResponse:
    """Answer the items of a conversation, as JSON or as a stream of events."""
    asked, size = await parsed(
        request, partial(Asked, sealer=request.app[SEALER], tag=request.app[CONFIG].server_tag)
    )
    return await _answered(request, asked, size)


async def answer_line(request: LineRequest, body: dict[str, Any], size: int) -> web.StreamResponse:
    """Answer items that came in a file."""
    asked = await off_loop(size, Asked, body, request.app[SEALER], request.app[CONFIG].server_tag)
    return await _answered(request, asked, size)


async def _answered(request: AnyRequest, asked: Asked, size: int) -> web.StreamResponse:
    app, config, owner = request.app, request.app[CONFIG], request.get(NAMESPACE, "")
    origin, body = request.get(ORIGIN) or RequestOrigin(), asked.body
    await _remembered(asked, app, owner, size)
    streaming = body.wants_stream(request.headers)
    warnings = asked.warnings(strict=config.strict, streaming=streaming)
    model = await find_model(request, body.model)
    generation = replace(
        asked.request,
        incremental_calls=config.incremental_tool_calls,
        namespace=owner,
        priority=priority_of(request, body.priority, low=body.low_priority),
        adapter=body.adapter_of(model),
    )
    builder = ReplyBuilder(
        asked.response(),
        asked.toolbox,
        app[SEALER],
        summarised=body.reasoning.as_summary,
        incremental=config.incremental_tool_calls,
        asks_cache=body.cache is not None,
        tag=config.server_tag,
    )

    async def run(engine: Engine, warn: Callable[[Iterable[str]], None]) -> answer.Events:
        with asked.in_its_terms():
            found = await off_loop(size, engine.warnings, generation)
        warn(map(asked.conversation.told, found))
        return asked.told(engine.aevents(generation, origin))

    if body.background and isinstance(request, web.Request):
        job = Job(builder, app[KEPT], owner, asked.record(builder.response), origin)
        await job.begin()
        # Its headers are sent before its model is loaded.
        app[JOBS].start(owner, job, app, model, partial(run, warn=builder.late.extend))
        return await _begun(request, job, warnings, streaming=streaming)

    async def keep() -> str:
        if not body.store:
            return ""
        return await asyncio.to_thread(app[KEPT].put, owner, asked.record(builder.response))

    reply = Reply(builder, warnings, keep)

    async def followed(engine: Engine) -> answer.Events:
        return reply.following(await run(engine, reply.warn))

    if streaming and isinstance(request, web.Request):
        response = await answer.streamed(request, model, reply, followed)
        if builder.response.status == "failed":
            await keep()
        return response
    collect = partial(completion, model.name, warnings)
    return await answer.whole(request, model, reply, followed, collect)


async def _begun(
    request: web.Request, job: Job, warnings: Sequence[str], *, streaming: bool
) -> web.StreamResponse:
    """The reply about a response in the background: what it is now, or its stream."""
    headers = warnings_header(warnings)
    if streaming:
        return await stream_job(request, job, -1, headers)
    return as_json(job.builder.response, headers)


async def _remembered(asked: Asked, app: web.Application, owner: str, size: int) -> None:
    """Complete a request with what it refers to. Raises InvalidRequestError."""
    previous = asked.body.previous_response_id
    if previous is not None and app[JOBS].get(owner, previous) is not None:
        raise InvalidRequestError(
            "The previous response is still being made.", param="previous_response_id"
        )
    if asked.refers:
        await asyncio.to_thread(asked.remember, app[KEPT], owner)
    else:
        await off_loop(size, asked.remember, app[KEPT], owner)
