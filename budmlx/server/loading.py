"""The server while a model is loaded: it answers in a thread, so that the main one can load."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Self

from aiohttp import web

from budmlx.server.listening import BACKLOG, Listening
from budmlx.server.transport import Runner


class LoadingServer:
    """A context manager that answers on a server's sockets, in a thread, and leaves them open.

    app: see `create_loading_app`. Loading stays in the main thread, where Ctrl-C interrupts it.
    """

    def __init__(self, listening: Listening, app: web.Application):
        self._listening = listening
        self._app = app
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="budmlx-loading-server", daemon=True
        )
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.result()
        return self

    def __exit__(self, *_: object) -> None:
        loop, stop = self._started.result()
        loop.call_soon_threadsafe(stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        stop = asyncio.Event()
        runner = Runner(self._app)
        try:
            await runner.setup()
            for each in self._listening.sockets:
                # A copy, since the end of a site closes its socket.
                site = web.SockSite(
                    runner, each.dup(), backlog=BACKLOG, ssl_context=self._listening.ssl
                )
                await site.start()
        except Exception as error:  # It is raised where the server was requested.
            self._started.set_exception(error)
            return
        self._started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        await runner.cleanup()
