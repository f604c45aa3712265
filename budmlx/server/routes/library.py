"""Admin routes of models: load, unload, fetch from the hub, delete from its cache."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Literal

import msgspec
from aiohttp import web
from msgspec import Struct
from pydantic import Field

from budmlx.errors import BudmlxError, InvalidRequestError
from budmlx.server.admin import check_admin, log_action
from budmlx.server.answer import HEADERS
from budmlx.server.body import parsed
from budmlx.server.endpoints import EndpointTable, Streamed
from budmlx.server.errors import failure_of
from budmlx.server.json_reply import as_json
from budmlx.server.model_files import pulling, removed
from budmlx.server.routes.models import Model, entry_of
from budmlx.server.security import find_model
from budmlx.server.state import MODELS
from budmlx.server.strict_body import StrictBody

endpoints = EndpointTable("/v1")


class ModelRequest(StrictBody):
    """A model that is served."""

    model: str = Field(description="A name that `GET /v1/models` lists.")


class PullRequest(StrictBody):
    """A repository of the hub."""

    model: str = Field(description="A repository of the hub, such as org/name.")
    revision: str | None = Field(None, description="Branch, tag or commit.")


class PullEvent(Struct, frozen=True):
    """How far a pull is. done, total: bytes. error: why it ended, in its last event."""

    stage: Literal["checking", "downloading", "done", "failed"]
    done: int = 0
    total: int = 0
    error: str | None = None


class Removed(Struct, frozen=True):
    """A model that is gone. freed: bytes on disk."""

    id: str
    freed: int
    object: str = "model"
    deleted: bool = True


@endpoints.post("/v1/models/load", "Load a model; needs admin rights", ModelRequest, Model)
async def load(request: web.Request) -> web.Response:
    """Load a model now, and answer when it is loaded."""
    check_admin(request)
    body, _ = await parsed(request, ModelRequest.parse)
    model = await find_model(request, body.model, default=False)
    log_action(request, f"load {body.model}")
    async with model.aengine(patient=True):
        pass
    return as_json(entry_of(body.model, model))


@endpoints.post("/v1/models/unload", "Unload a model; needs admin rights", ModelRequest, Model)
async def unload(request: web.Request) -> web.Response:
    """Unload a model when its running requests have ended, and answer when it is gone."""
    check_admin(request)
    body, _ = await parsed(request, ModelRequest.parse)
    models = request.app[MODELS]
    if models.only is not None:
        raise InvalidRequestError(
            f"{body.model} is the only model, and stays loaded.", param="model"
        )
    model = await find_model(request, body.model, default=False)
    log_action(request, f"unload {body.model}")
    await asyncio.wrap_future(models.unload(body.model))
    return as_json(entry_of(body.model, model))


@endpoints.post(
    "/v1/models/pull",
    "Fetch a model from the hub; needs admin rights",
    PullRequest,
    reply=PullEvent,
    streamed=Streamed(
        "text/event-stream",
        "Server-sent events: `data:` lines with the progress.",
        PullEvent,
        generated=False,
    ),
)
async def pull_model(request: web.Request) -> web.StreamResponse:
    """Fetch a model into the hub's cache; ends with the connection, and can be resumed."""
    check_admin(request)
    body, _ = await parsed(request, PullRequest.parse)
    log_action(request, f"pull {body.model}")
    response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
    try:
        async with aclosing(pulling(request.app[MODELS], body.model, body.revision)) as progress:
            async for latest in progress:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(_event(PullEvent(latest.stage, latest.done, latest.total)))
    except BudmlxError as error:
        if not response.prepared:
            raise
        await response.write(_event(PullEvent("failed", error=failure_of(error).message)))
    return response


@endpoints.delete(
    "/v1/models/{id:.+}",
    "Delete a model from the hub's cache; needs admin rights",
    Removed,
    errors=(404,),
    parameters={"id": "It may hold slashes, escaped or not."},
)
async def delete(request: web.Request) -> web.Response:
    """Delete a model that is not loaded from the hub's cache."""
    check_admin(request)
    name = request.match_info["id"]
    log_action(request, f"delete {name}")
    return as_json(Removed(name, await removed(request.app[MODELS], name)))


def _event(event: PullEvent) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"
