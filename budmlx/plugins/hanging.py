"""Calls of plugins that do not return: counted, named, and bounded in number.

Python cannot stop a call. Each one that hangs keeps its thread until it returns, perhaps for ever.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from budmlx.errors import PluginError
from budmlx.plugins.boundary import calling, hangs
from budmlx.threads import run_apart

log = logging.getLogger(__name__)

T = TypeVar("T")


class HangingCalls:
    """The calls of one engine's plugins that hang. Thread-safe.

    seconds: a call that takes longer hangs. most: calls of one plugin that may hang; after that
    its calls are refused until one returns. Those that run by then can still be added.
    """

    def __init__(self, seconds: float, most: int):
        self.seconds = seconds
        self._most = most
        self._lock = threading.Lock()
        self._calls: dict[Future[Any], tuple[str, str]] = {}

    def counts(self) -> dict[tuple[str, str], int]:
        """How many calls hang now, by plugin and its part, such as `filter`."""
        with self._lock:
            return dict(Counter(self._calls.values()))

    def call(self, plugin: str, what: str, function: Callable[[], T]) -> T:
        """Call a plugin on a thread of its own, for `seconds` at most.

        Raises:
            PluginError: the plugin raised, takes too long, or has too many calls that hang.
            InvalidRequestError: the plugin refuses the request.
        """
        self.check([plugin])

        def call() -> T:
            with calling(plugin, what):
                return function()

        future = run_apart("budmlx-plugin", call)
        if wait([future], self.seconds).not_done:
            raise self.add(plugin, what, future)
        return future.result()

    def add(self, plugin: str, what: str, future: Future[Any]) -> PluginError:
        """Count a call that hangs, until it returns; returns the error for its request."""
        with self._lock:
            self._calls[future] = (plugin, what)
        error = hangs(plugin, what, self.seconds)
        if (refused := self._refusal(plugin, self._most)) is not None:
            log.error("%s", refused)
        future.add_done_callback(self._returned)
        return error

    def check(self, plugins: Collection[str], most: int | None = None) -> None:
        """Refuse plugins of which `most` calls hang; without it, as many as may.

        Raises:
            PluginError: naming the plugin.
        """
        if not self._calls:
            return
        for plugin in plugins:
            if (refused := self._refusal(plugin, self._most if most is None else most)) is not None:
                raise PluginError(
                    f"{refused} The server's log says more. Restart the server without it."
                )

    def _refusal(self, plugin: str, most: int) -> str | None:
        parts = {what: count for (name, what), count in self.counts().items() if name == plugin}
        if sum(parts.values()) < most:
            return None
        where = ", ".join(f"{what} ({count})" for what, count in parts.items())
        return f"The plugin {plugin} is disabled, since it does not return from calls: {where}."

    def _returned(self, future: Future[Any]) -> None:
        with self._lock:
            plugin, what = self._calls.pop(future)
        log.warning("Plugin %s returned late from its %s", plugin, what)
