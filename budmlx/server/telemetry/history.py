"""History: what the server did in the last minutes, second by second, for plots."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web
from msgspec import Struct

SECONDS = 1.0
KEPT = 180
"""Moments: what the plots of the page show."""


class Moment(Struct, frozen=True):
    """A moment. at: seconds of the Unix clock. tokens: of replies, a second. The others: rows."""

    at: float
    tokens: float
    running: int
    waiting: int


class History:
    """Looks once a second. Used on one event loop.

    look: the tokens that were written so far, and the rows that run and that wait.
    """

    def __init__(self, look: Callable[[], tuple[int, int, int]]):
        self.moments: deque[Moment] = deque(maxlen=KEPT)
        self._look = look

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look while the block runs."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()

    async def _run(self) -> None:
        before, begin = self._look()[0], time.monotonic()
        while True:
            await asyncio.sleep(SECONDS)
            written, running, waiting = self._look()
            passed = time.monotonic() - begin
            # Of requests that ended meanwhile, what they wrote may be counted a moment later.
            rate = max(0, written - before) / passed
            before, begin = written, begin + passed
            self.moments.append(Moment(time.time(), rate, running, waiting))


HISTORY: web.AppKey[History] = web.AppKey("history")
