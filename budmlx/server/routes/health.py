"""Signs of life: `GET /health` of the process, `GET /ready` of the engine."""

from __future__ import annotations

from aiohttp import web
from msgspec import Struct

from budmlx.engine.hosts.host import HostStatus
from budmlx.errors import EngineUnavailableError
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.security import visible
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

    numbers: what was chosen for the device, by model. problems: why single models make no
    progress, by model.
    """

    message: str
    status: str
    memory: list[Memory]
    numbers: dict[str, dict[str, str | int | float]]
    problems: dict[str, str] = {}


@endpoints.get("/health", "The process lives", Health)
async def health(request: web.Request) -> web.Response:
    """Answer as long as the event loop turns."""
    return as_json(Health("ok", "ok"))


@endpoints.get("/v1/tcp_warming", "Open a connection; the answer is empty")
async def tcp_warming(request: web.Request) -> web.Response:
    """Answer at once: some clients open their connection with this and wait for it."""
    return web.Response()


@endpoints.get("/ready", "The model makes progress", Readiness, errors=(503,))
async def ready(request: web.Request) -> web.Response:
    """Answer unless no model makes progress that is loaded; then raise EngineUnavailableError.

    A server that loads models on demand is ready without any. Of single models it tells those
    that the API key may use; where keys are set and none is sent, of none.
    """
    if request.app[IN_FLIGHT].draining:
        raise EngineUnavailableError("The server is shutting down.")
    # A model that is on its way out makes no progress, and nobody needs it to.
    stay = [each for each in request.app[MODELS].residents if each.state == "loaded"]
    found = [(each, each.engine, each.engine.status()) for each in stay if each.engine is not None]
    problems = {
        each.name: status.reason or "The model makes no progress."
        for each, _, status in found
        if not status.ready
    }
    if found and len(problems) == len(found):
        raise EngineUnavailableError(" ".join(problems.values()))
    seen = await visible(request)
    shown = [each for each in found if seen is None or each[0].name in seen]
    reply = Readiness(
        "ok",
        "ready",
        [memory_of(status) for _, _, status in shown],
        {engine.info.name: dict(engine.info.numbers) for _, engine, _ in shown},
        {
            engine.info.name: problems[each.name]
            for each, engine, _ in shown
            if each.name in problems
        },
    )
    return as_json(reply)


def memory_of(status: HostStatus) -> Memory:
    """What a model takes and may take."""
    budget, use = status.budget, status.memory
    return Memory(
        budget.limit,
        budget.weights,
        budget.prefix_cache,
        active=use.active,
        unused=use.unused,
        peak=use.peak,
    )
