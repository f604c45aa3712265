"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from budmlx.engine.engine import Engine
from budmlx.server.state import MODELS

routes = web.RouteTableDef()


@routes.get("/v1/models")
async def list_models(request: web.Request) -> web.Response:
    """List every name that is served."""
    models = request.app[MODELS]
    entries = [_entry(name, models.resolve(name)) for name in models.names]
    return web.json_response({"object": "list", "data": entries})


@routes.get("/v1/models/{id:.+}")
async def get_model(request: web.Request) -> web.Response:
    """Describe one name, which may hold slashes. Raises ModelNotFoundError."""
    name = request.match_info["id"]
    return web.json_response(_entry(name, request.app[MODELS].resolve(name)))


def _entry(name: str, engine: Engine) -> dict[str, Any]:
    created = engine.info.created
    return {"id": name, "object": "model", "created": created, "owned_by": "budmlx"}
