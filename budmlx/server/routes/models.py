"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from budmlx.engine.models.resident import Resident, State
from budmlx.server.endpoints import EndpointTable
from budmlx.server.state import MODELS

endpoints = EndpointTable("/v1")


class Model(Struct, frozen=True):
    """A name that is served.

    created: when the model was made, in seconds of the Unix clock. root: the name of the model
    itself, where this is another name of it. state: whether it is loaded. max_model_len: tokens
    of a prompt and its reply together; of a loaded model those that its memory holds.
    error: why it could not be loaded.
    """

    id: str
    object: str
    created: int
    owned_by: str
    root: str
    state: State
    max_model_len: int | None = None
    error: str | UnsetType = UNSET


class ModelList(Struct, frozen=True):
    """Every name that is served."""

    object: str
    data: list[Model] = []


@endpoints.get("/v1/models", "List every name that is served", ModelList)
async def list_models(request: web.Request) -> web.Response:
    """List every name that is served."""
    models = request.app[MODELS]
    return _json(ModelList("list", [_entry(name, models.resident(name)) for name in models.names]))


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
    return _json(_entry(name, request.app[MODELS].resident(name)))


def _entry(name: str, model: Resident) -> Model:
    error = UNSET if model.error is None else model.error.message
    return Model(
        name,
        "model",
        model.created,
        "budmlx",
        root=model.name,
        state=model.state,
        max_model_len=model.longest,
        error=error,
    )


def _json(reply: Struct) -> web.Response:
    return web.json_response(msgspec.to_builtins(reply))
