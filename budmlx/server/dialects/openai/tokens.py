"""`POST /v1/tokenize`, `/v1/detokenize` and `/v1/apply_template`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct

from budmlx.server.dialects.openai.request import ChatRequest
from budmlx.server.dialects.openai.token_shapes import (
    DetokenizeRequest,
    Text,
    TokenizeRequest,
    tokens,
)
from budmlx.server.serving import off_loop, parsed
from budmlx.server.state import CONFIG, MODELS

routes = web.RouteTableDef()


@routes.post("/v1/tokenize")
async def tokenize(request: web.Request) -> web.Response:
    """Token ids of raw text, and what each stands for."""
    asked, size = await parsed(request, TokenizeRequest.parse)
    warnings = asked.review(strict=request.app[CONFIG].strict)
    engine = request.app[MODELS].resolve(asked.model)

    def work() -> Struct:
        found = engine.tokenize(asked.prompt, add_special=asked.add_special_tokens)
        return tokens(found, engine.info.context_length, warnings, with_text=False)

    return await off_loop(size, _answer, work)


@routes.post("/v1/detokenize")
async def detokenize(request: web.Request) -> web.Response:
    """Text of token ids."""
    asked, size = await parsed(request, DetokenizeRequest.parse)
    warnings = asked.review(strict=request.app[CONFIG].strict)
    engine = request.app[MODELS].resolve(asked.model)

    def work() -> Struct:
        return Text(engine.detokenize(asked.tokens), warnings or UNSET)

    return await off_loop(size, _answer, work)


@routes.post("/v1/apply_template")
async def apply_template(request: web.Request) -> web.Response:
    """The prompt that the model would get for the body of a chat, as text and as ids."""
    asked, _ = await parsed(request, ChatRequest.parse)
    warnings = asked.review(strict=request.app[CONFIG].strict, streaming=True)
    engine = request.app[MODELS].resolve(asked.model)

    def work() -> Struct:
        chat = asked.to_request()
        found = engine.apply_template(chat)
        notes = [*warnings, *engine.warnings(chat)]
        return tokens(found, engine.info.context_length, notes, with_text=True)

    # Message transforms of plugins may take their time.
    return await asyncio.to_thread(_answer, work)


def _answer(work: Callable[[], Struct]) -> web.Response:
    return web.Response(body=msgspec.json.encode(work()), content_type="application/json")
