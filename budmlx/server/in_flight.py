"""Places for the requests in flight, and their end when the server drains."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from budmlx.errors import EngineUnavailableError, OverloadedError

FINAL_EVENT_SECONDS = 1.0
"""Seconds for requests that the drain ended to send their last event."""


class InFlight:
    """The requests that hold places in the engine, at most `limit` places of one API key.

    When all are taken, keys that hold less than their share, `limit` by the number of keys with
    requests, still get places beyond them. So a flood takes places from its own key only; K keys
    hold at most limit * (1 + 1/2 + ... + 1/K) together, or one each, whichever is more.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._scopes: dict[asyncio.Timeout, tuple[str, int]] = {}
        self._empty = asyncio.Event()
        self.draining = False

    @property
    def count(self) -> int:
        """The number of places that are held."""
        return sum(places for _, places in self._scopes.values())

    @asynccontextmanager
    async def slot(self, places: int = 1, key: str = "") -> AsyncIterator[None]:
        """Hold places. Raises OverloadedError when there are too few, EngineUnavailableError
        when the server is shutting down or its patience with this request ends.

        key: any string that identifies the API key of the request.
        """
        if self.draining:
            raise _shutting_down()
        if self.count + places > self.limit and not self._in_share(key, places):
            raise OverloadedError(
                f"{min(self.count, self.limit)} requests are already running or waiting, of at "
                f"most {self.limit}; retry later."
            )
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes[scope] = (key, places)
                yield
        except TimeoutError:
            if scope.expired():
                raise _shutting_down() from None
            raise
        finally:
            self._scopes.pop(scope, None)
            if not self._scopes:
                self._empty.set()

    def _in_share(self, key: str, places: int) -> bool:
        """Whether a key would hold no more than its share, while others hold places, too."""
        held = Counter({key: places})
        for each, count in self._scopes.values():
            held[each] += count
        return len(held) > 1 and held[key] <= max(1, self.limit // len(held))

    async def drain(self, seconds: float) -> None:
        """Take no more requests, give the running ones `seconds`, then end them."""
        self.draining = True
        await self._wait_until_empty(seconds)
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            scope.reschedule(now)
        await self._wait_until_empty(FINAL_EVENT_SECONDS)

    async def _wait_until_empty(self, seconds: float) -> None:
        self._empty.clear()
        if self._scopes:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()


def _shutting_down() -> EngineUnavailableError:
    return EngineUnavailableError("The server is shutting down; retry later.")
