"""Embedded server: HTTP for an engine of the same process, for clients that need it."""

from __future__ import annotations

import asyncio
import secrets
import threading
import weakref
from concurrent.futures import Future

from pydantic import SecretStr

from budmlx.config import Config
from budmlx.engine.engine import Engine
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer


class EmbeddedServer:
    """Serves an engine on a free port of 127.0.0.1, in a thread, until it is closed.

    Only requests with `key`, which is new each time, are answered. The engine answers to every
    model name and stays open. No setting is read from the environment.
    """

    def __init__(self, engine: Engine):
        self.key = secrets.token_urlsafe(32)
        config = Config.model_construct(port=0, api_keys=(SecretStr(self.key),), drain_seconds=1.0)
        started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        # A daemon, so that an unclosed client does not keep the program from ending.
        self._thread = threading.Thread(
            target=lambda: asyncio.run(_serve(engine, config, started)),
            name="budmlx-embedded-server",
            daemon=True,
        )
        self._thread.start()
        self.url, loop, stop = started.result()
        self._stop = weakref.finalize(self, _signal, loop, stop)

    def close(self) -> None:
        """Let running replies end, for a second at most, and stop. Idempotent."""
        self._stop()
        self._thread.join()


async def _serve(
    engine: Engine,
    config: Config,
    started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]],
) -> None:
    stop = asyncio.Event()
    try:
        server = await HttpServer.start(Models.of(engine, any_name=True), config)
    except Exception as error:  # It is raised where the server was requested.
        started.set_exception(error)
        return
    started.set_result((server.url, asyncio.get_running_loop(), stop))
    await stop.wait()
    await server.drain()


def _signal(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(stop.set)
