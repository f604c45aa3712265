"""Pace of plugins: which of those that are called outside of the core take most of a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_SECONDS = 1.0
SLOW_SHARE = 0.5
"""A plugin is slow if its calls take this share of a window."""
SLOW_CALL_SECONDS = 0.02
"""Calls that wait count if they take so long: shorter ones may wait for other threads of ours."""
TOLD_SECONDS = 60.0


@dataclass(slots=True)
class _Spent:
    """What the calls of a plugin took since `begin`: their number, and seconds."""

    begin: float
    calls: int = 0
    wall: float = 0.0
    cpu: float = 0.0


class Pace:
    """Sums up what calls take. Thread-safe.

    tell: called with a plugin, its share of the time, the seconds of a call, and whether it is
    time to say so again.
    """

    def __init__(self, tell: Callable[[str, float, float, bool], None]):
        self._tell = tell
        self._lock = threading.Lock()
        self._spent: dict[str, _Spent] = {}
        self._silent_until: dict[str, float] = {}

    def begin(self) -> tuple[float, float]:
        """Begin a call; `end` takes what this returns."""
        return time.perf_counter(), time.thread_time()

    def end(self, plugin: str, begin: tuple[float, float]) -> None:
        """Record the end of a call, on the thread where it began."""
        now, cpu = time.perf_counter(), time.thread_time()
        with self._lock:
            spent = self._spent.setdefault(plugin, _Spent(begin[0]))
            spent.calls += 1
            spent.wall += now - begin[0]
            spent.cpu += cpu - begin[1]
            window = now - spent.begin
            if window < WINDOW_SECONDS:
                return
            del self._spent[plugin]
            waits = spent.wall >= SLOW_CALL_SECONDS * spent.calls
            share = (spent.wall if waits else spent.cpu) / window
            if share < SLOW_SHARE:
                return
            due = now >= self._silent_until.get(plugin, now)
            if due:
                self._silent_until[plugin] = now + TOLD_SECONDS
        self._tell(plugin, share, spent.wall / spent.calls, due)
