"""A server that answers with the errors that a request's header asks for.

Middlewares are nothing that plugins may bring, and message transforms see no headers, so this
one is put into the application by the tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Handler

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.errors import EngineUnavailableError
from budmlx.server.app import create_app
from budmlx.server.errors import HttpError
from budmlx.server.transport import Runner

HEADER = "X-Answer-With"


@web.middleware
async def answer_with(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Fail as the header says: `429 7` is the status 429 with `Retry-After: 7`."""
    status, _, retry_after = request.headers.get(HEADER, "").partition(" ")
    if status == "500":
        raise RuntimeError("a bug")
    if status == "503":
        raise EngineUnavailableError("The engine is restarting.", retry_after=int(retry_after))
    if status:
        headers = {"Retry-After": retry_after} if retry_after else {}
        raise HttpError(int(status), f"Asked for {status}.", code="asked_for", headers=headers)
    return await handler(request)


@asynccontextmanager
async def faulty_server(engine: Engine) -> AsyncIterator[str]:
    """Serve, and yield the address."""
    app = create_app(Models.of(engine, ("demo",)), Config())
    app.middlewares.append(answer_with)
    runner = Runner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{site.port}"
    await runner.cleanup()
