"""`POST /v1/chat/completions`."""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web

from budmlx.engine.reply.completion import completion
from budmlx.server.dialects.openai.quirks import reason_of_filters
from budmlx.server.dialects.openai.reply import Reply
from budmlx.server.dialects.openai.request import ChatRequest
from budmlx.server.serving import parsed, running, stream, wants_stream
from budmlx.server.state import CONFIG, MODELS, NAMESPACE

routes = web.RouteTableDef()


@routes.post("/v1/chat/completions")
async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer a conversation, as JSON or as a stream of events."""
    config = request.app[CONFIG]
    chat, _ = await parsed(request, ChatRequest.parse)
    streaming = wants_stream(request, chat)
    warnings = chat.review(streaming=streaming, strict=config.strict)
    engine = request.app[MODELS].resolve(chat.model)
    asked = replace(
        chat.to_request(incremental_calls=config.incremental_tool_calls),
        namespace=request.get(NAMESPACE, ""),
    )
    warnings += engine.warnings(asked)
    reply = Reply(chat, engine.info.fingerprint, warnings, reason_of_filters(request))
    run = running(request, engine.aevents(asked))
    if streaming:
        return await stream(request, reply, run)
    async with run as events:
        done = completion(engine.info.name, warnings, [event async for event in events])
    return web.Response(body=reply.whole(done), content_type="application/json")
