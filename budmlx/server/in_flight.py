"""Places for the requests in flight, and their end when the server drains."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from budmlx.engine.run.origin import RequestOrigin
from budmlx.errors import EngineUnavailableError, OverloadedError, RequestFailedError

FINAL_EVENT_SECONDS = 1.0
"""Seconds for requests that the drain ended to send their last event."""
CANCELLED = "An administrator of the server cancelled this request."


@dataclass(slots=True, eq=False)
class Holder:
    """A request that holds places.

    key: identifies its API key. model: it is for. cancelled: an admin ended it.
    """

    places: int
    key: str
    model: str = ""
    origin: RequestOrigin | None = None
    cancelled: bool = False


class InFlight:
    """The requests that hold places in the engine, at most `limit` places of one API key, and
    those without places, which others bound.

    When all are taken, keys that hold less than their share, `limit` by the number of keys with
    requests, still get places beyond them. So a flood takes places from its own key only; K keys
    hold at most limit * (1 + 1/2 + ... + 1/K) together, or one each, whichever is more.

    watch: is told when the first request gets its places, and when the last one has ended.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._scopes: dict[asyncio.Timeout, Holder] = {}
        self._empty = asyncio.Event()
        self.draining = False
        self.watch: Callable[[bool], object] | None = None

    @property
    def count(self) -> int:
        """The number of places that are held."""
        return sum(holder.places for holder in self._scopes.values())

    @property
    def holders(self) -> Sequence[Holder]:
        """Those who hold places, in the order in which they came."""
        return tuple(self._scopes.values())

    @asynccontextmanager
    async def slot(
        self,
        places: int = 1,
        key: str = "",
        *,
        model: str = "",
        origin: RequestOrigin | None = None,
    ) -> AsyncIterator[None]:
        """Hold places. Raises OverloadedError when there are too few, EngineUnavailableError
        when the server is shutting down or its patience with this request ends,
        RequestFailedError when an admin cancels it, QuotaError if its API key has no token left.

        key: any string that identifies the API key of the request. The others: see `Holder`.
        """
        if self.draining:
            raise _shutting_down()
        if origin is not None and origin.account is not None:
            origin.account.check()  # Before its model is loaded, and its prompt is read.
        if origin is not None and origin.placeless:
            places = 0
        if places and self.count + places > self.limit and not self._in_share(key, places):
            raise OverloadedError(
                f"{min(self.count, self.limit)} requests are already running or waiting, of at "
                f"most {self.limit}; retry later."
            )
        scope, holder = asyncio.timeout(None), Holder(places, key, model, origin)
        try:
            async with scope:
                self._scopes[scope] = holder
                if self.watch is not None and len(self._scopes) == 1:
                    self.watch(True)
                yield
        except TimeoutError:
            if holder.cancelled:
                raise RequestFailedError(CANCELLED, code="cancelled") from None
            if scope.expired():
                raise _shutting_down() from None
            raise
        finally:
            self._scopes.pop(scope, None)
            if not self._scopes:
                self._empty.set()
                if self.watch is not None:
                    self.watch(False)

    def _in_share(self, key: str, places: int) -> bool:
        """Whether a key would hold no more than its share, while others hold places, too."""
        held = Counter({key: places})
        for holder in self._scopes.values():
            if holder.places:
                held[holder.key] += holder.places
        return len(held) > 1 and held[key] <= max(1, self.limit // len(held))

    def cancel(self, request_id: str) -> int:
        """End the requests with this id; clients choose ids. Returns how many there were."""
        now = asyncio.get_running_loop().time()
        found = 0
        for scope, holder in self._scopes.items():
            if holder.origin is not None and holder.origin.request_id == request_id:
                holder.cancelled = True
                scope.reschedule(now)
                found += 1
        return found

    async def drain(self, seconds: float) -> int:
        """Take no more requests, give the running ones `seconds`, then end them.

        Returns how many were ended.
        """
        self.draining = True
        await self._wait_until_empty(seconds)
        now, left = asyncio.get_running_loop().time(), len(self._scopes)
        for scope in self._scopes:
            scope.reschedule(now)
        await self._wait_until_empty(FINAL_EVENT_SECONDS)
        return left

    async def _wait_until_empty(self, seconds: float) -> None:
        self._empty.clear()
        if self._scopes:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()


def _shutting_down() -> EngineUnavailableError:
    return EngineUnavailableError("The server is shutting down; retry later.")
