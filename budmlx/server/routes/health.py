"""Signs of life: `GET /health` of the process, `GET /ready` of the engine."""

from __future__ import annotations

from aiohttp import web

from budmlx.errors import EngineUnavailableError
from budmlx.server.state import IN_FLIGHT, MODELS

routes = web.RouteTableDef()


@routes.get("/health")
async def health(request: web.Request) -> web.Response:
    """Answer as long as the event loop turns."""
    return web.json_response({"message": "ok", "status": "ok"})


@routes.get("/v1/tcp_warming")
async def tcp_warming(request: web.Request) -> web.Response:
    """Answer at once: some clients open their connection with this and wait for it."""
    return web.Response()


@routes.get("/ready")
async def ready(request: web.Request) -> web.Response:
    """Answer when every model makes progress; raise EngineUnavailableError saying why not."""
    if request.app[IN_FLIGHT].draining:
        raise EngineUnavailableError("The server is shutting down.")
    models = request.app[MODELS]
    for engine in {models.resolve(name) for name in models.names}:
        status = engine.status()
        if not status.ready:
            raise EngineUnavailableError(status.reason or "The model makes no progress.")
    return web.json_response({"message": "ok", "status": "ready"})
