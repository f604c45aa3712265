"""`POST /v1/fim/completions`: the text between two others, in the shape of Mistral's API."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from aiohttp import web
from pydantic import Field

from budmlx.engine.engine import Engine
from budmlx.engine.reply.completion import completion
from budmlx.server import answer
from budmlx.server.body import off_loop, parsed
from budmlx.server.dialects.openai.chat_reply import ChatCompletion, ChatReply, Chunk
from budmlx.server.dialects.openai.quirks import ERRORS
from budmlx.server.dialects.openai.reply import server_sent
from budmlx.server.dialects.openai.sampling import GenerationRequest
from budmlx.server.endpoints import EndpointTable
from budmlx.server.records import ORIGIN
from budmlx.server.security import find_model, priority_of
from budmlx.server.state import CONFIG, NAMESPACE
from budmlx.types import Request

endpoints = EndpointTable("/v1", ERRORS)


class FimRequest(GenerationRequest):
    """The body."""

    prompt: str = Field(description="The text before what is to be written.")
    suffix: str = Field("", description="The text that follows it.")

    def to_request(self) -> Request:
        """The same request as a plain value. Raises InvalidRequestError for combinations."""
        return Request(
            prompt=self.prompt,
            suffix=self.suffix,
            sampling=self.sampling(),
            given=frozenset(self.model_fields_set),
            n=self.n,
            response_format=None
            if self.response_format is None
            else self.response_format.to_format(),
            reasoning="raw",
            cache=self.cache,
            cache_salt=self.cache_salt,
            explain_cache=self.explain_cache,
            speculation=self.speculation,
        )


@endpoints.post(
    "/v1/fim/completions",
    "Write the text between two others",
    FimRequest,
    reply=ChatCompletion,
    streamed=server_sent(Chunk),
)
async def fim(request: web.Request) -> web.StreamResponse:
    """Write the text between two others, as JSON or as a stream of events."""
    body, size = await parsed(request, FimRequest.parse)
    streaming = body.wants_stream(request.headers)
    warnings = body.review(streaming=streaming, strict=request.app[CONFIG].strict)
    model = await find_model(request, body.model)
    generation = replace(
        body.to_request(),
        namespace=request.get(NAMESPACE, ""),
        priority=priority_of(request, body.priority, low=body.low_priority),
        adapter=body.adapter_of(model),
    )
    reply = ChatReply(
        body,
        warnings,
        logprobs=generation.sampling.logprobs is not None,
        uses_functions=False,
        agent=request.headers.get("User-Agent", ""),
    )

    async def run(engine: Engine) -> answer.Events:
        await off_loop(size, reply.loaded, engine, generation)
        return engine.aevents(generation, request.get(ORIGIN))

    if streaming:
        return await answer.streamed(request, model, reply, run)
    collect = partial(completion, model.name, warnings)
    return await answer.whole(request, model, reply, run, collect)
