"""Signs of life: `GET /health` of the process, `GET /ready` of the engine."""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import Struct

from budmlx.errors import EngineUnavailableError
from budmlx.server.endpoints import EndpointTable
from budmlx.server.state import IN_FLIGHT, MODELS

endpoints = EndpointTable("/v1")


class Health(Struct, frozen=True):
    """All is well."""

    message: str
    status: str


class Ready(Health, frozen=True):
    """Every model makes progress. numbers: what was chosen for the device, by model."""

    numbers: dict[str, dict[str, str | int | float]] = {}


@endpoints.get("/health", "The process lives", Health)
async def health(request: web.Request) -> web.Response:
    """Answer as long as the event loop turns."""
    return _answer(Health("ok", "ok"))


@endpoints.get("/v1/tcp_warming", "Open a connection; the answer is empty")
async def tcp_warming(request: web.Request) -> web.Response:
    """Answer at once: some clients open their connection with this and wait for it."""
    return web.Response()


@endpoints.get("/ready", "The model makes progress", Ready, errors=(503,))
async def ready(request: web.Request) -> web.Response:
    """Answer when every model makes progress; raise EngineUnavailableError saying why not."""
    if request.app[IN_FLIGHT].draining:
        raise EngineUnavailableError("The server is shutting down.")
    models = request.app[MODELS]
    engines = {models.resolve(name) for name in models.names}
    for engine in engines:
        status = engine.status()
        if not status.ready:
            raise EngineUnavailableError(status.reason or "The model makes no progress.")
    numbers = {engine.info.name: dict(engine.info.numbers) for engine in engines}
    return _answer(Ready("ok", "ready", numbers))


def _answer(content: Health) -> web.Response:
    return web.json_response(msgspec.to_builtins(content))
