"""Built-in response cache: replies in memory, of which the least recently used are evicted."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from budmlx import hookimpl
from budmlx.config import Config
from budmlx.plugins.specs import CacheStats, ResponseCache

ENTRY_BYTES = 256
"""Bytes of an entry beyond its key and value."""


@hookimpl
def provide_response_cache(config: Config) -> ResponseCache:
    """A cache of `cache_size` bytes."""
    return MemoryCache(int(config.cache_size))


@dataclass(frozen=True, slots=True)
class _Entry:
    value: bytes
    expires: float | None

    @property
    def expired(self) -> bool:
        return self.expires is not None and time.monotonic() >= self.expires


class MemoryCache:
    """A `ResponseCache` of at most `limit` bytes. A value that is larger alone is not kept."""

    def __init__(self, limit: int):
        self._limit = limit
        self._bytes = 0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """See `ResponseCache`."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry.expired:
                self._drop(key)
                return None
            self._entries.move_to_end(key)
            return entry.value

    def set(self, key: str, value: bytes, ttl: float | None) -> None:
        """See `ResponseCache`."""
        with self._lock:
            self._drop(key)
            if _cost(key, value) > self._limit:
                return
            expires = None if ttl is None else time.monotonic() + ttl
            self._entries[key] = _Entry(value, expires)
            self._bytes += _cost(key, value)
            while self._bytes > self._limit:
                self._drop(next(iter(self._entries)))

    def delete(self, key: str) -> None:
        """See `ResponseCache`."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """See `ResponseCache`."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def stats(self) -> CacheStats:
        """See `ResponseCache`."""
        with self._lock:
            return CacheStats(len(self._entries), self._bytes)

    def close(self) -> None:
        """See `ResponseCache`."""
        self.clear()

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= _cost(key, entry.value)


def _cost(key: str, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_BYTES
