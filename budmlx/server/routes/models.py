"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from budmlx.engine.engine import Engine
from budmlx.engine.models.models import ServedModel
from budmlx.engine.models.resident import Resident, State
from budmlx.errors import ModelNotFoundError
from budmlx.server.endpoints import EndpointTable
from budmlx.server.state import MODELS

endpoints = EndpointTable("/v1")


class Residence(Struct, frozen=True):
    """A model in memory. requests: how many use it. The others are bytes.

    limit: weights, KV caches and activations together. active: in use now.
    """

    pinned: bool
    requests: int
    limit: int
    weights: int
    active: int


class Model(Struct, frozen=True):
    """A name that is served.

    created: when the model was made, in seconds of the Unix clock. root: the name of the model
    itself, where this is another name of it. parent: the same, of an adapter. state: whether it
    is loaded. max_model_len: tokens of a prompt and its reply together; of a loaded model those
    that its memory holds. error: why it could not be loaded. residence: what it takes, if it is
    loaded.
    """

    id: str
    object: str
    created: int
    owned_by: str
    root: str
    state: State
    max_model_len: int | None = None
    parent: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    residence: Residence | UnsetType = UNSET


class ModelList(Struct, frozen=True):
    """Every name that is served."""

    object: str
    data: list[Model] = []


@endpoints.get("/v1/models", "List every name that is served", ModelList)
async def list_models(request: web.Request) -> web.Response:
    """List every name that is served."""
    models = request.app[MODELS]
    await asyncio.to_thread(models.refresh)
    entries = []
    for name in models.names:
        with suppress(ModelNotFoundError):  # another request found that it is gone
            entries.append(entry_of(name, models.find(name)))
    return _json(ModelList("list", entries))


@endpoints.get(
    "/v1/models/{id:.+}",
    "Describe one name",
    Model,
    errors=(404,),
    parameters={"id": "It may hold slashes, escaped or not."},
)
async def get_model(request: web.Request) -> web.Response:
    """Describe one name, which may hold slashes. Raises ModelNotFoundError."""
    name = request.match_info["id"]
    return _json(entry_of(name, await request.app[MODELS].afind(name)))


def entry_of(name: str, served: ServedModel) -> Model:
    """What is told of a model under one of its names."""
    model = served.resident
    error = UNSET if model.error is None else model.error.message
    return Model(
        name,
        "model",
        model.created,
        "budmlx",
        root=model.name,
        state=model.state,
        max_model_len=model.longest,
        parent=model.name if served.adapter else UNSET,
        error=error,
        residence=UNSET if model.engine is None else _residence(model, model.engine),
    )


def _residence(model: Resident, engine: Engine) -> Residence:
    status = engine.status()
    return Residence(
        model.pinned,
        model.users,
        status.budget.limit,
        status.budget.weights,
        status.memory.active,
    )


def _json(reply: Struct) -> web.Response:
    return web.json_response(msgspec.to_builtins(reply))
