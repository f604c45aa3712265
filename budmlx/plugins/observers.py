"""Observers: plugins that receive the records of finished requests, each on its own thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from budmlx.plugins.boundary import raised
from budmlx.plugins.limits import PluginLimits
from budmlx.plugins.specs import RequestRecord

log = logging.getLogger(__name__)


class _Observer:
    """Passes records to one plugin, in order. The thread ends when none waits."""

    def __init__(self, plugin: str, call: Callable[..., object], max_waiting: int):
        self._plugin = plugin
        self._max_waiting = max_waiting
        self._call = call
        self._waiting: deque[RequestRecord] = deque()
        self._changed = threading.Condition()
        self._running = False
        self._complained = False

    def tell(self, record: RequestRecord) -> None:
        with self._changed:
            if len(self._waiting) >= self._max_waiting:
                self._complain()
                return
            self._waiting.append(record)
            if self._running:
                return
            self._running = True
        threading.Thread(target=self._run, name="budmlx-observer", daemon=True).start()

    def _complain(self) -> None:
        if not self._complained:
            self._complained = True
            log.warning(
                "Plugin %s is too slow in on_request_finished: it misses requests", self._plugin
            )

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._running = False
                    self._changed.notify_all()
                    return
                record = self._waiting.popleft()
            try:
                self._call(record=record)
            except BaseException as error:  # the boundary of the thread
                raised(self._plugin, "on_request_finished", error)

    def finish(self, seconds: float) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: not self._running, seconds):
                log.warning("Plugin %s does not return from on_request_finished", self._plugin)


class Observers:
    """The observers of one engine. Thread-safe; no call waits for a plugin but `finish`."""

    def __init__(self, calls: Iterable[tuple[str, Callable[..., object]]], limits: PluginLimits):
        """`calls`: names of plugins, each with its hook."""
        self._close_seconds = limits.close_seconds
        self._observers = [
            _Observer(plugin, call, limits.waiting_records) for plugin, call in calls
        ]

    def tell(self, record: RequestRecord) -> None:
        """Queue a record for every observer."""
        for observer in self._observers:
            observer.tell(record)

    def finish(self) -> None:
        """Wait until all records were passed on, for `close_seconds` at most."""
        end = time.monotonic() + self._close_seconds
        for observer in self._observers:
            observer.finish(max(0.0, end - time.monotonic()))
