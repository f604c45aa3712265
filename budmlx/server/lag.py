"""Lag monitor: names what keeps the event loop from serving, such as a route of a plugin."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from types import FrameType
from typing import Self

from budmlx.plugins.boundary import count_fault, running_on
from budmlx.server.plugin_routes import route_of

log = logging.getLogger(__name__)

LAG_SECONDS = 1.0
GRACE_SECONDS = 0.1


class LagMonitor:
    """Watches the event loop on which it is made, from a thread of its own. A context manager.

    seconds: a call on the loop that takes longer is told, while it lasts.
    """

    def __init__(self, seconds: float = LAG_SECONDS):
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="budmlx-lag", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            answered = threading.Event()
            begin = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(answered.set)
            except RuntimeError:  # it was closed
                return
            # Twice, since this process may have been stopped meanwhile.
            if answered.wait(self._seconds) or answered.wait(GRACE_SECONDS):
                continue
            where = self._where()
            log.warning("Nothing is served: the event loop waits for %s", where)
            while not answered.wait(self._seconds):
                if self._ended.is_set():
                    return
            log.warning("The event loop waited for %.1f s, for %s", time.monotonic() - begin, where)

    def _where(self) -> str:
        """What the loop does now, in words; a plugin's fault is counted."""
        frame = sys._current_frames().get(self._watched)
        place = "its system" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        found = running_on(self._watched) or _route(frame)
        if found is None:
            return place
        plugin, what = found
        count_fault(plugin, "blocks")
        return f"plugin {plugin}, in its {what}, at {place}"


def _route(frame: FrameType | None) -> tuple[str, str] | None:
    """The plugin whose route runs, and the route."""
    while frame is not None:
        if (found := route_of(frame)) is not None:
            return found
        frame = frame.f_back
    return None
