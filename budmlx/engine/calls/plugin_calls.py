"""Calls of plugins that may take for ever: on other threads, and with a limit.

Python cannot stop a call, so a request gives up waiting for it. What budmlx ships is trusted
and called directly: a thread for each piece of a reply would cost more than its parser does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Self, TypeVar

from budmlx.engine.calls.procedures import FutureWait, Procedure
from budmlx.errors import BudmlxError, PluginError
from budmlx.plugins import boundary
from budmlx.threads import Worker

T = TypeVar("T")


class Containment:
    """Which plugins of an engine hang. Thread-safe."""

    def __init__(self) -> None:
        self._hung: dict[str, Future[Any]] = {}

    def calls(self, plugins: Collection[str]) -> PluginCalls:
        """What makes the calls of one request. plugins: those that it uses and that may hang.

        Raises:
            PluginError: a call of one of them still hangs.
        """
        for plugin in plugins:
            if plugin in self._hung and not self._hung[plugin].done():
                raise PluginError(
                    f"The plugin {plugin} is disabled, since it does not return from an earlier "
                    "call; the server's log says more. Restart the server without it."
                )
        return PluginCalls(self._hung, Worker("budmlx-plugins") if plugins else None)


class PluginCalls:
    """A context manager around the calls of one request, on a thread or directly."""

    def __init__(self, hung: dict[str, Future[Any]], worker: Worker | None):
        self._hung = hung
        self._worker = worker
        self._abandoned: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._abandoned is not None:
            self._abandoned()
        if self._worker is not None:
            self._worker.end()

    def run(self, call: Callable[[], T], undo: Callable[[T], None] | None = None) -> Procedure[T]:
        """Make one call. undo: takes back a result that comes when nobody waits any more.

        Raises:
            PluginError: a plugin does not return.
        """
        if self._worker is None:
            return call()
        future = self._worker.submit(call)
        self._abandoned = partial(future.add_done_callback, partial(_take_back, undo))
        while True:
            yield FutureWait(future, boundary.PLUGIN_SECONDS)
            if future.cancelled():  # the thread had no time to begin
                future = self._worker.submit(call)
                self._abandoned = partial(future.add_done_callback, partial(_take_back, undo))
            elif future.done():
                self._abandoned = None
                return future.result()
            elif (at := boundary.running_on(self._worker.thread)) is not None:
                plugin, what = at
                self._hung[plugin] = future
                raise boundary.hangs(plugin, what)

    def items(self, items: Iterator[T]) -> Procedure[Iterator[T]]:
        """The items, computed at once if they are computed on the thread; see `run`."""
        if self._worker is None:
            return items
        return (yield from self.run(partial(_computed, items)))


def _computed(items: Iterator[T]) -> Iterator[T]:
    done: list[T] = []
    try:
        done.extend(items)
    except BudmlxError as error:
        return _then(done, error)
    return iter(done)


def _then(items: list[T], error: BudmlxError) -> Iterator[T]:
    yield from items
    raise error


def _take_back(undo: Callable[[T], None] | None, future: Future[T]) -> None:
    if undo is not None and not future.cancelled() and future.exception() is None:
        undo(future.result())
