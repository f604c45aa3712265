"""`POST /v1/completions`: texts continued without a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aiohttp import web

from budmlx.engine.engine import Engine
from budmlx.engine.reply.completion import completion
from budmlx.engine.run.many import as_one
from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.openai.text_reply import TextReply
from budmlx.server.dialects.openai.text_request import CompletionRequest
from budmlx.server.serving import off_loop, parsed, running, stream, wants_stream
from budmlx.server.state import CONFIG, IN_FLIGHT, MODELS, NAMESPACE
from budmlx.types import Request

routes = web.RouteTableDef()


@routes.post("/v1/completions")
async def completions(request: web.Request) -> web.StreamResponse:
    """Continue one prompt or several, as JSON or as a stream of events."""
    asked, size = await parsed(request, CompletionRequest.parse)
    streaming = wants_stream(request, asked)
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
    run = running(request, as_one(parts), places=len(parts))
    if streaming:
        return await stream(request, reply, run)
    async with run as events:
        done = completion(engine.info.name, warnings, [event async for event in events])
    body = reply.whole(asked.chosen(done))
    return web.Response(body=body, content_type="application/json")


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
