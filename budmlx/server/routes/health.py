"""Signs of life: `GET /health` of the process, `GET /ready` of the engine."""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import Struct

from budmlx.engine.hosts.host import HostStatus
from budmlx.errors import EngineUnavailableError
from budmlx.server.endpoints import EndpointTable
from budmlx.server.state import IN_FLIGHT, MODELS

endpoints = EndpointTable("/v1")


class Health(Struct, frozen=True):
    """All is well."""

    message: str
    status: str


class Memory(Struct, frozen=True):
    """Bytes of a model.

    limit: weights, KV caches and activations together. weights: its own. prefix_cache: the most
    for KV of former prompts. active: in use now. unused: kept for reuse by MLX. peak: the most
    that was in use.
    """

    limit: int
    weights: int
    prefix_cache: int
    active: int
    unused: int
    peak: int


class Readiness(Struct, frozen=True):
    """Requests make progress. memory: one for each model that is loaded.

    numbers: what was chosen for the device, by model.
    """

    message: str
    status: str
    memory: list[Memory]
    numbers: dict[str, dict[str, str | int | float]]


@endpoints.get("/health", "The process lives", Health)
async def health(request: web.Request) -> web.Response:
    """Answer as long as the event loop turns."""
    return web.json_response(msgspec.to_builtins(Health("ok", "ok")))


@endpoints.get("/v1/tcp_warming", "Open a connection; the answer is empty")
async def tcp_warming(request: web.Request) -> web.Response:
    """Answer at once: some clients open their connection with this and wait for it."""
    return web.Response()


@endpoints.get("/ready", "The model makes progress", Readiness, errors=(503,))
async def ready(request: web.Request) -> web.Response:
    """Answer when every model makes progress; raise EngineUnavailableError saying why not."""
    if request.app[IN_FLIGHT].draining:
        raise EngineUnavailableError("The server is shutting down.")
    models = request.app[MODELS]
    memory, numbers = [], {}
    for engine in dict.fromkeys(models.resolve(name) for name in models.names):
        status = engine.status()
        if not status.ready:
            raise EngineUnavailableError(status.reason or "The model makes no progress.")
        memory.append(_memory(status))
        numbers[engine.info.name] = dict(engine.info.numbers)
    return web.json_response(msgspec.to_builtins(Readiness("ok", "ready", memory, numbers)))


def _memory(status: HostStatus) -> Memory:
    budget, use = status.budget, status.memory
    return Memory(
        budget.limit,
        budget.weights,
        budget.prefix_cache,
        active=use.active,
        unused=use.unused,
        peak=use.peak,
    )
