"""`POST /v1/responses/input_tokens`: how many tokens an input has."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Literal

from aiohttp import web
from msgspec import Struct

from budmlx.server.body import parsed
from budmlx.server.dialects.responses.asked import Asked
from budmlx.server.dialects.responses.body import ResponsesRequest
from budmlx.server.dialects.responses.state import KEPT
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.security import find_model
from budmlx.server.state import CONFIG, NAMESPACE, SEALER
from budmlx.server.warnings_header import warnings_header

endpoints = EndpointTable("/v1")


class ResponseInputTokens(Struct, frozen=True):
    """The number of tokens."""

    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


@endpoints.post(
    "/v1/responses/input_tokens",
    "Count the tokens of an input",
    ResponsesRequest,
    ResponseInputTokens,
    brief=True,
)
async def input_tokens(request: web.Request) -> web.Response:
    """Count the tokens of the prompt that a request would make; nothing is generated."""
    app = request.app
    asked, _ = await parsed(request, partial(Asked, sealer=app[SEALER]))
    await asyncio.to_thread(asked.remember, app[KEPT], request.get(NAMESPACE, ""))
    warnings = asked.warnings(strict=app[CONFIG].strict, streaming=True)
    model = await find_model(request, asked.body.model)
    generation = replace(asked.request, adapter=asked.body.adapter_of(model))
    async with model.aengine() as engine:
        with asked.in_its_terms():
            count = await asyncio.to_thread(engine.count_tokens, generation)
    return as_json(ResponseInputTokens(count), warnings_header(warnings))
