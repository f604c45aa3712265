"""`POST /v1/completions`: texts continued without a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aiohttp import web

from budmlx.engine.engine import Engine
from budmlx.engine.reply.completion import completion
from budmlx.engine.run.many import as_one
from budmlx.errors import InvalidRequestError
from budmlx.server import answer
from budmlx.server.body import off_loop, parsed
from budmlx.server.dialects.openai.completions_reply import TextCompletion, TextReply
from budmlx.server.dialects.openai.completions_request import CompletionRequest
from budmlx.server.dialects.openai.quirks import ERRORS
from budmlx.server.dialects.openai.reply import server_sent
from budmlx.server.endpoints import EndpointTable
from budmlx.server.state import CONFIG, IN_FLIGHT, MODELS, NAMESPACE
from budmlx.types import Completion, Event, Request

endpoints = EndpointTable("/v1", ERRORS)


@endpoints.post(
    "/v1/completions",
    "Continue raw text",
    CompletionRequest,
    reply=TextCompletion,
    streamed=server_sent(TextCompletion),
)
async def completions(request: web.Request) -> web.StreamResponse:
    """Continue one prompt or several, as JSON or as a stream of events."""
    asked, size = await parsed(request, CompletionRequest.parse)
    streaming = asked.wants_stream(request.headers)
    warnings = asked.review(streaming=streaming, strict=request.app[CONFIG].strict)
    engine = request.app[MODELS].resolve(asked.model)
    asked.check(streaming=streaming, vocab_size=engine.info.vocab_size)
    _check_places(asked, request.app[IN_FLIGHT].limit)
    namespace = request.get(NAMESPACE, "")
    requests = [replace(each, namespace=namespace) for each in asked.to_requests()]
    warnings += engine.warnings(requests[0])
    requests = await off_loop(size, _with_ids, asked, engine, requests)
    echoes = await off_loop(size, _echoes, asked, engine)
    reply = TextReply(asked, engine.info.fingerprint, warnings, echoes)
    parts = [(each.n, engine.aevents(each)) for each in requests]
    events = as_one(parts)
    if streaming:
        return await answer.streamed(request, reply, events, places=len(parts))

    def collect(events: Sequence[Event]) -> Completion:
        return asked.chosen(completion(engine.info.name, warnings, events))

    return await answer.whole(request, reply, events, collect, places=len(parts))


def _check_places(asked: CompletionRequest, limit: int) -> None:
    if (count := len(asked.prompts)) > limit:
        raise InvalidRequestError(
            f"`prompt` has {count} prompts; this server takes at most {limit} at once.",
            param="prompt",
        )


def _with_ids(
    asked: CompletionRequest, engine: Engine, requests: Sequence[Request]
) -> list[Request]:
    """The requests, ready to run, so that what is wrong with one is known before any runs."""
    result = []
    for place, each in zip(asked.prompts, requests, strict=True):
        try:
            result.append(engine.with_ids(each))
        except InvalidRequestError as exc:
            exc.param = place if exc.param == "prompt" else exc.param
            raise
    return result


def _echoes(asked: CompletionRequest, engine: Engine) -> list[str]:
    """The texts of the prompts, if they are to be echoed."""
    if not asked.echo:
        return []
    return [p if isinstance(p, str) else engine.detokenize(p) for p in asked.prompts.values()]
