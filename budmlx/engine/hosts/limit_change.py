"""Limit change: another limit of memory, from the request until the core keeps it."""

from __future__ import annotations

from concurrent.futures import Future

from budmlx.errors import EngineClosedError
from budmlx.protocol import MemoryBudget


class LimitChange:
    """The latest change of a core's memory limit. Not thread-safe, but for the futures."""

    def __init__(self) -> None:
        self._limit = 0
        self._kept: Future[MemoryBudget] = Future()

    def begin(self, limit: int) -> Future[MemoryBudget]:
        """Wait for a budget with this limit, in bytes; an earlier change is cancelled."""
        self._kept.cancel()
        self._limit, self._kept = limit, Future()
        return self._kept

    def take(self, budget: MemoryBudget) -> None:
        """The core keeps this budget."""
        if budget.limit == self._limit and not self._kept.done():
            self._kept.set_result(budget)

    def close(self) -> None:
        """The core is no more."""
        if not self._kept.done():
            self._kept.set_exception(EngineClosedError("The engine was closed."))
