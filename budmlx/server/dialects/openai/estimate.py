"""`POST /v1/estimate`: what the body of a chat would take, without running it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from budmlx.engine.models.resident import State
from budmlx.server.body import parsed
from budmlx.server.dialects.openai.chat import ChatRequest
from budmlx.server.dialects.openai.quirks import ERRORS
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.security import find_model
from budmlx.server.state import CONFIG, MODELS, NAMESPACE

endpoints = EndpointTable("/v1", ERRORS)


class EstimateReply(Struct, frozen=True):
    """What a chat would take now.

    cached_tokens: of the prompt, those whose KV is in memory. max_tokens: most of the reply that
    there is room for. fits: memory holds the prompt and a reply; null if that is not known. What is
    told of the memory of a model that is not loaded is computed from its files. running, waiting:
    requests of the model. to_unload: the models that would have to go first. expected_wait: seconds
    to the first token, as those of late went; of a model that is not loaded, what its last load
    took; null if that is not known.
    """

    model: str
    state: State
    to_unload: Sequence[str]
    expected_wait: float | None
    prompt_tokens: int
    cached_tokens: int
    max_tokens: int
    fits: bool | None
    running: int
    waiting: int
    warnings: Sequence[str] | UnsetType = UNSET


@endpoints.post("/v1/estimate", "What the body of a chat would take", ChatRequest, EstimateReply)
async def estimate(request: web.Request) -> web.Response:
    """Say what the body of a chat would take; nothing is generated, and no model is loaded."""
    body, _ = await parsed(request, ChatRequest.parse)
    warnings = body.review(strict=request.app[CONFIG].strict, streaming=True)
    models = request.app[MODELS]
    model = await find_model(request, body.model)
    chat = replace(
        body.to_request(),
        namespace=request.get(NAMESPACE, ""),
        adapter=body.adapter_of(model),
    )
    resident = model.resident
    to_unload: Sequence[str] = ()
    if (state := resident.state) == "loaded":
        async with model.aengine() as engine:
            found = await asyncio.to_thread(engine.estimate, chat)
            warnings += await asyncio.to_thread(engine.warnings, chat)
    else:
        outlook = await asyncio.wrap_future(models.estimate(model, chat))
        wait, queued = resident.load_seconds, len(resident.waiting)
        found = replace(outlook.estimate, waiting=queued, expected_wait=wait)
        to_unload = outlook.to_unload
        warnings += outlook.warnings
    reply = EstimateReply(
        model=model.name,
        state=state,
        to_unload=to_unload,
        warnings=warnings or UNSET,
        **asdict(found),
    )
    return as_json(reply)
