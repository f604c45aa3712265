"""How many requests are in flight, and how they end when the server drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from budmlx.errors import EngineUnavailableError, OverloadedError

LAST_WORD_SECONDS = 1.0
"""How long requests that the drain ended may take to tell their clients."""


class InFlight:
    """The requests that hold places in the engine, at most `limit` places."""

    def __init__(self, limit: int):
        self.limit = limit
        self._scopes: dict[asyncio.Timeout, int] = {}
        self._empty = asyncio.Event()
        self.draining = False

    @property
    def count(self) -> int:
        """How many places are held."""
        return sum(self._scopes.values())

    @asynccontextmanager
    async def slot(self, places: int = 1) -> AsyncIterator[None]:
        """Hold places. Raises OverloadedError when there are too few, EngineUnavailableError
        when the server is shutting down or its patience with this request ends."""
        if self.draining:
            raise _shutting_down()
        if self.count + places > self.limit:
            raise OverloadedError(
                f"{self.count} requests are already running or waiting, of at most {self.limit}; "
                "retry later."
            )
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes[scope] = places
                yield
        except TimeoutError:
            if scope.expired():
                raise _shutting_down() from None
            raise
        finally:
            self._scopes.pop(scope, None)
            if not self._scopes:
                self._empty.set()

    async def drain(self, seconds: float) -> None:
        """Take no more requests, give the running ones `seconds`, then end them."""
        self.draining = True
        await self._wait_until_empty(seconds)
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            scope.reschedule(now)
        await self._wait_until_empty(LAST_WORD_SECONDS)

    async def _wait_until_empty(self, seconds: float) -> None:
        self._empty.clear()
        if self._scopes:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()


def _shutting_down() -> EngineUnavailableError:
    return EngineUnavailableError("The server is shutting down; retry later.")
