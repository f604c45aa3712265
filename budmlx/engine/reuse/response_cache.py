"""Response cache around a plugin's store; equal requests in flight share one computation."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from budmlx.config import ModelConfig
from budmlx.engine.procedures import FutureWait, Procedure
from budmlx.engine.reuse.stored_reply import StoredReply, decode, reply_key, stored
from budmlx.plugins.boundary import FaultKind, count_fault, whereabouts
from budmlx.plugins.manager import Owned
from budmlx.plugins.specs import ResponseCache
from budmlx.threads import Worker
from budmlx.types import CachePolicy, Event, Finished, Request

log = logging.getLogger(__name__)

REST_SECONDS = 60.0
"""So long a store that does not answer in time is left alone."""
MAX_BACKLOG = 256
"""Replies that may wait to be stored; more are dropped."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """The consumer of a request: a thread, or a task on it."""

    thread: int
    task: asyncio.Task[object] | None = None

    @classmethod
    def current(cls) -> Caller:
        """The thread or task that calls this."""
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        return cls(threading.get_ident(), task)

    @property
    def gone(self) -> bool:
        """Whether its event loop was closed, so that it never goes on and never cleans up."""
        return self.task is not None and self.task.get_loop().is_closed()

    def would_block(self, other: Caller) -> bool:
        """Whether waiting for `other` could keep it from going on."""
        if self.thread != other.thread:
            return False
        return self.task is other.task or self.task is None or other.task is None


@dataclass(frozen=True, slots=True)
class _Flight:
    """A reply that a request, the leader, is computing for its followers.

    future: its bytes; empty if it must not be shared; None if the leader gave up or failed.
    """

    leader: Caller
    future: Future[bytes | None]


class ReplyCache:
    """The stored replies of one engine. Faults of the store never fail a request.

    seconds: that the store has to answer, and to close.
    """

    def __init__(
        self, store: Owned[ResponseCache] | None, config: ModelConfig, salt: str, seconds: float
    ):
        self.enabled = store is not None and config.cache != "off"
        self._auto = config.cache == "auto"
        self._salt = salt
        self._seconds = seconds
        self._store = store
        self._worker = Worker("budmlx-response-cache") if store is not None else None
        self._lock = threading.Lock()  # of the flights
        self._flights: dict[str, _Flight] = {}
        self._resting_until = 0.0
        self._silent_until = 0.0

    def ticket(self, request: Request, ids: list[int], *, share: bool = True) -> Ticket:
        """The ticket of one request. share: it may wait for an equal request in flight."""
        policy = self._policy(request)
        if policy is None or time.monotonic() < self._resting_until:
            return Ticket(self, "", CachePolicy.of(False), share=False)
        return Ticket(self, reply_key(request, ids, self._salt), policy, share=share)

    def _policy(self, request: Request) -> CachePolicy | None:
        if not self.enabled:
            return None
        sampling = request.sampling
        if request.cache is None and self._auto:
            fixed = sampling.temperature == 0 or sampling.seed is not None
            return CachePolicy() if fixed else None
        return request.cache

    def close(self) -> None:
        """Close the store, if it closes in time."""
        if self._store is None or self._worker is None:
            return
        closing = self._call(self._store.value.close)
        self._worker.end()
        try:
            closing.result(self._seconds)
        except TimeoutError:
            log.warning("The response cache of plugin %s does not close", self._store.plugin)

    # For tickets

    def read(self, key: str) -> Procedure[StoredReply | None]:
        """The stored reply; None if there is none."""
        assert self._store is not None
        store = self._store.value
        reading = self._call(lambda: store.get(key))
        yield FutureWait(reading, self._seconds)
        if not reading.done() or reading.cancelled():
            self._rest()
            return None
        raw = reading.result()
        if raw is None:
            return None
        reply = decode(key, raw) if isinstance(raw, bytes) else None
        if reply is None:
            self._complain("broke", "returned something that is no reply")
            self._call(lambda: store.delete(key))
        return reply

    def write(self, key: str, raw: bytes, ttl: float | None) -> None:
        """Store a reply, without waiting."""
        assert self._store is not None and self._worker is not None
        store = self._store.value
        if self._worker.backlog < MAX_BACKLOG:
            self._call(lambda: store.set(key, raw, ttl))

    def join_flight(self, key: str, caller: Caller) -> tuple[_Flight | None, bool]:
        """The flight of a key and whether it is the caller's own; None: compute alone."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is None or flight.leader.gone:
                future: Future[bytes | None] = Future()
                future.set_running_or_notify_cancel()  # followers that give up do not end it
                flight = self._flights[key] = _Flight(caller, future)
                return flight, True
            return (None if caller.would_block(flight.leader) else flight), False

    def end_flight(self, key: str, flight: _Flight, raw: bytes | None) -> None:
        """End a flight; `raw` is what its future holds then."""
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.future.set_result(raw)

    def _call(self, call: Callable[[], T]) -> Future[T | None]:
        """Queue a call of the store; its faults become None and one warning a minute."""

        def guarded() -> T | None:
            try:
                return call()
            except BaseException as error:  # on a thread of its own, so that it is the store's
                self._complain("raised", f"failed: {whereabouts(error)}")
                return None

        assert self._worker is not None
        return self._worker.submit(guarded)

    def _rest(self) -> None:
        self._resting_until = time.monotonic() + REST_SECONDS
        self._complain("hangs", f"does not answer and is left alone for {REST_SECONDS:.0f} s")

    def _complain(self, kind: FaultKind, problem: str) -> None:
        assert self._store is not None
        count_fault(self._store.plugin, kind)
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + REST_SECONDS
            log.warning("The response cache of plugin %s %s", self._store.plugin, problem)


class Ticket:
    """One request's use of the cache. It must be closed, since other requests may wait for it."""

    def __init__(self, cache: ReplyCache, key: str, policy: CachePolicy, *, share: bool):
        self._cache = cache
        self._key = key
        self._policy = policy
        self._share = share
        self._flight: _Flight | None = None
        self._events: list[Event] = []

    @property
    def reads(self) -> bool:
        """Whether the request may get a stored reply."""
        return self._policy.read

    def lookup(self) -> Procedure[StoredReply | None]:
        """The reply, if it is stored or an equal request in flight computes it."""
        if not self._policy.read:
            return None
        if self._share:
            caller = Caller.current()
            flight, own = self._cache.join_flight(self._key, caller)
            while flight is not None and not own:
                yield FutureWait(flight.future)
                if (raw := flight.future.result()) is not None:
                    return decode(self._key, raw)  # None for a filtered reply: compute alone
                flight, own = self._cache.join_flight(self._key, caller)
            self._flight = flight
        reply = yield from self._cache.read(self._key)
        if reply is not None:
            self._end_flight(reply.encode())
        return reply

    def note(self, event: Event) -> None:
        """Collect an event that the request computed; with the last one the reply is stored."""
        if not self._policy.write:
            return
        self._events.append(event)
        if isinstance(event, Finished):
            reply = stored(self._key, self._events)
            raw = b"" if reply is None else reply.encode()
            if raw:
                self._cache.write(self._key, raw, self._policy.ttl)
            self._end_flight(raw)

    def close(self) -> None:
        """End the flight of the request, however that ended. Idempotent."""
        self._end_flight(None)

    def _end_flight(self, raw: bytes | None) -> None:
        flight, self._flight = self._flight, None
        if flight is not None:
            self._cache.end_flight(self._key, flight, raw)
