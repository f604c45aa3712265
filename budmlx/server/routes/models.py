"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import Struct

from budmlx.engine.engine import Engine
from budmlx.server.endpoints import EndpointTable
from budmlx.server.state import MODELS

endpoints = EndpointTable("/v1")


class Model(Struct, frozen=True):
    """A name that is served. created: when the model was made, in seconds of the Unix clock."""

    id: str
    object: str
    created: int
    owned_by: str


class ModelList(Struct, frozen=True):
    """Every name that is served."""

    object: str
    data: list[Model] = []


@endpoints.get("/v1/models", "List every name that is served", ModelList)
async def list_models(request: web.Request) -> web.Response:
    """List every name that is served."""
    models = request.app[MODELS]
    entries = [_entry(name, models.resolve(name)) for name in models.names]
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
    return _json(_entry(name, request.app[MODELS].resolve(name)))


def _entry(name: str, engine: Engine) -> Model:
    return Model(name, "model", engine.info.created, "budmlx")


def _json(reply: Struct) -> web.Response:
    return web.json_response(msgspec.to_builtins(reply))
