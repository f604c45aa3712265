"""`POST /v1/estimate`: what the body of a chat would take, without running it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from budmlx.engine.models.resident import State
from budmlx.server.body import parsed
from budmlx.server.dialects.openai.chat import ChatRequest
from budmlx.server.dialects.openai.quirks import ERRORS
from budmlx.server.endpoints import EndpointTable
from budmlx.server.state import CONFIG, MODELS, NAMESPACE

endpoints = EndpointTable("/v1", ERRORS)


class EstimateReply(Struct, frozen=True):
    """What a chat would take now. Of a model that is not loaded, its prompt is not counted.

    cached_tokens: of the prompt, those whose KV is in memory. max_tokens: most of the reply that
    there is room for. fits: memory holds the prompt and a reply. running, waiting: requests of
    the model. to_unload: the models that would have to go first. expected_wait: seconds to the
    first token, as those of late went; null if that is not known.
    """

    model: str
    state: State
    to_unload: Sequence[str]
    expected_wait: float | None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    max_tokens: int | None = None
    fits: bool | None = None
    running: int = 0
    waiting: int = 0
    warnings: Sequence[str] | UnsetType = UNSET


@endpoints.post("/v1/estimate", "What the body of a chat would take", ChatRequest, EstimateReply)
async def estimate(request: web.Request) -> web.Response:
    """Say what the body of a chat would take; nothing is generated, and no model is loaded."""
    body, _ = await parsed(request, ChatRequest.parse)
    warnings = body.review(strict=request.app[CONFIG].strict, streaming=True)
    models = request.app[MODELS]
    model = models.find(body.model)
    chat = replace(
        body.to_request(),
        namespace=request.get(NAMESPACE, ""),
        adapter=body.adapter_of(model),
    )
    fields: dict[str, Any] = {"to_unload": models.in_the_way(body.model)}
    if (resident := models.resident(body.model)).state == "loaded":
        async with model.aengine() as engine:
            found = await asyncio.to_thread(engine.estimate, chat)
            warnings += await asyncio.to_thread(engine.warnings, chat)
        fields |= asdict(found)
    else:
        fields["expected_wait"] = resident.load_seconds
    reply = EstimateReply(
        model=model.name, state=resident.state, warnings=warnings or UNSET, **fields
    )
    return web.Response(body=msgspec.json.encode(reply), content_type="application/json")
