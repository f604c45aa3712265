"""`POST /v1/chat/completions`: answers a conversation."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from aiohttp import web

from budmlx.engine.reply.completion import completion
from budmlx.server import answer
from budmlx.server.body import parsed
from budmlx.server.dialects.openai.chat_reply import ChatCompletion, ChatReply, Chunk
from budmlx.server.dialects.openai.chat_request import ChatRequest
from budmlx.server.dialects.openai.quirks import ERRORS, reason_of_filters
from budmlx.server.dialects.openai.reply import server_sent
from budmlx.server.endpoints import EndpointTable
from budmlx.server.state import CONFIG, MODELS, NAMESPACE

endpoints = EndpointTable("/v1", ERRORS)


@endpoints.post(
    "/v1/chat/completions",
    "Answer a conversation",
    ChatRequest,
    reply=ChatCompletion,
    streamed=server_sent(Chunk),
)
async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer a conversation, as JSON or as a stream of events."""
    config = request.app[CONFIG]
    chat, _ = await parsed(request, ChatRequest.parse)
    streaming = chat.wants_stream(request.headers)
    warnings = chat.review(streaming=streaming, strict=config.strict)
    engine = request.app[MODELS].resolve(chat.model)
    asked = replace(
        chat.to_request(incremental_calls=config.incremental_tool_calls),
        namespace=request.get(NAMESPACE, ""),
    )
    warnings += engine.warnings(asked)
    reply = ChatReply(chat, engine.info.fingerprint, warnings, reason_of_filters(request))
    events = engine.aevents(asked)
    if streaming:
        return await answer.streamed(request, reply, events)
    collect = partial(completion, engine.info.name, warnings)
    return await answer.whole(request, reply, events, collect)
