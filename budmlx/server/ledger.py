"""Ledger: the tokens that each API key used of late, and how many it may still use today.

Days are those of UTC. What was used is written to the store a moment later, by a thread.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial

from budmlx.config.keys import ApiKey
from budmlx.engine.store.store import Store
from budmlx.errors import QuotaError
from budmlx.types import Usage

DAYS_KEPT = 92
RETRY_SECONDS = 1
"""When to come back for tokens that are held for a running request, and may not be needed."""

TABLE = """
CREATE TABLE IF NOT EXISTS key_usage (
    key TEXT, day TEXT, requests INTEGER, prompt INTEGER, completion INTEGER,
    PRIMARY KEY (key, day)
)"""
ADD = """
INSERT INTO key_usage VALUES (?, ?, ?, ?, ?) ON CONFLICT (key, day) DO UPDATE SET
    requests = requests + excluded.requests, prompt = prompt + excluded.prompt,
    completion = completion + excluded.completion"""


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Tally:
    """Requests that ended, and their tokens."""

    requests: int = 0
    prompt: int = 0
    completion: int = 0

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.prompt + self.completion

    def add(self, other: Tally) -> None:
        """Count others, too."""
        self.requests += other.requests
        self.prompt += other.prompt
        self.completion += other.completion


@dataclass(slots=True)
class _Day:
    """The use of a key on a day. held: tokens for requests that run."""

    used: Tally
    held: int = 0


@dataclass(frozen=True, slots=True)
class DailyUse:
    """What a key used on a day, such as 2027-01-31."""

    key: str
    day: str
    used: Tally


class Ledger:
    """The use of all keys, by their names. Thread-safe.

    What one key holds and has used never exceeds its limit, except by what prompts turn out to
    have more than was said of them.
    """

    def __init__(self, store: Store, now: Callable[[], datetime] = utc_now):
        self._store = store
        self._now = now
        self._lock = threading.Lock()
        self._closed = False
        self._unwritten: dict[tuple[str, date], Tally] = {}
        self._writer = ThreadPoolExecutor(1, "budmlx-ledger")
        self._today = today = now().date()
        nothing: dict[str, Tally] = {}
        used = store.attempt(partial(_opened, today=today), nothing)
        self._days = {(key, today): _Day(tally) for key, tally in used.items()}

    def close(self) -> None:
        """Write what is not written. What is counted afterwards is not written."""
        with self._lock:
            self._closed = True
        self._writer.shutdown()

    def account(self, key: ApiKey) -> KeyAccount:
        """That of a key, with its limit as it is now."""
        return KeyAccount(self, key)

    def hold(self, key: ApiKey, prompt: int, completion: int, least: int) -> Reservation:
        """See `Account.reserve`."""
        with self._lock:
            day = self._day(key.name)
            limit = key.tokens_per_day
            if limit is not None:
                left = limit - day.used.tokens - day.held - prompt
                if left < least:
                    raise self._refusal(limit, day, prompt + least)
                completion = min(completion, left)
            day.held += prompt + completion
            return Reservation(self, key.name, self._today, prompt, completion)

    def settle(self, key: str, day: date, held: int, used: Tally) -> None:
        """Let go of what was held for a request, and count what it used."""
        with self._lock:
            there = self._days.setdefault((key, day), _Day(Tally(), held))
            there.held -= held
            there.used.add(used)
            if not self._unwritten and not self._closed:
                self._writer.submit(self._write)
            self._unwritten.setdefault((key, day), Tally()).add(used)

    def left(self, key: ApiKey) -> int | None:
        """The tokens that a key may use today, beside those that are held; None for any number."""
        with self._lock:
            day = self._day(key.name)
        if key.tokens_per_day is None:
            return None
        return max(0, key.tokens_per_day - day.used.tokens - day.held)

    def uses(self, names: Collection[str] | None, days: int) -> Sequence[DailyUse]:
        """What keys used in the last days, today's first; waits for the disk.

        names: of the keys; None for all.
        """
        self._writer.submit(int).result()  # Everything before it is written then.
        first = (self._now().date() - timedelta(days=days - 1)).isoformat()

        def work(database: sqlite3.Connection) -> Sequence[DailyUse]:
            rows = database.execute(
                "SELECT key, day, requests, prompt, completion FROM key_usage WHERE day >= ? "
                "ORDER BY day DESC, key",
                (first,),
            ).fetchall()
            return [DailyUse(key, day, Tally(*counts)) for key, day, *counts in rows]

        nothing: Sequence[DailyUse] = ()
        found = self._store.attempt(work, nothing)
        return [each for each in found if names is None or each.key in names]

    def _day(self, key: str) -> _Day:
        """Today, for a key. The lock is held."""
        if (today := self._now().date()) != self._today:
            self._today = today
            self._days = {place: day for place, day in self._days.items() if day.held}
        return self._days.setdefault((key, today), _Day(Tally()))

    @property
    def reset_time(self) -> datetime:
        """When the day ends."""
        return datetime.combine(self._now().date() + timedelta(days=1), time(), UTC)

    def _refusal(self, limit: int, day: _Day, wanted: int) -> QuotaError:
        left = max(0, limit - day.used.tokens)
        said = f"This request may take {wanted} tokens; this API key has {left} left of {limit} "
        if wanted <= left:
            return QuotaError(
                f"{said}per day, of which {day.held} are held for requests that run. Retry when "
                "these have ended, or with a smaller `max_tokens`.",
                retry_after=RETRY_SECONDS,
                code="rate_limit_exceeded",
            )
        reset = self.reset_time
        seconds = math.ceil((reset - self._now()).total_seconds())
        return QuotaError(
            f"{said}per day. The next day begins at {reset:%Y-%m-%d %H:%M} UTC, in {seconds} s.",
            retry_after=max(seconds, RETRY_SECONDS),
        )

    def _write(self) -> None:
        with self._lock:
            unwritten, self._unwritten = self._unwritten, {}
        rows = [
            (key, day.isoformat(), used.requests, used.prompt, used.completion)
            for (key, day), used in unwritten.items()
        ]

        def work(database: sqlite3.Connection) -> None:
            database.executemany(ADD, rows)

        self._store.attempt(work, None)


class KeyAccount:
    """The `Account` of a key."""

    def __init__(self, ledger: Ledger, key: ApiKey):
        self._ledger = ledger
        self._key = key

    def reserve(self, prompt: int, completion: int, least: int) -> Reservation:
        """See `Account`."""
        return self._ledger.hold(self._key, prompt, completion, least)


class Reservation:
    """Tokens that are held for a request. completion: those that it may generate."""

    def __init__(self, ledger: Ledger, key: str, day: date, prompt: int, completion: int):
        self.completion = completion
        self._ledger = ledger
        self._place = key, day
        self._held = prompt + completion

    def settle(self, usage: Usage | None) -> None:
        """See `engine.run.origin.Reservation`."""
        used = Tally(1)
        if usage is not None:
            used = Tally(1, usage.prompt_tokens, usage.completion_tokens)
        self._ledger.settle(*self._place, self._held, used)


def _opened(database: sqlite3.Connection, today: date) -> dict[str, Tally]:
    """What was used today, by key."""
    database.execute(TABLE)
    oldest = (today - timedelta(days=DAYS_KEPT)).isoformat()
    database.execute("DELETE FROM key_usage WHERE day < ?", (oldest,))
    rows = database.execute(
        "SELECT key, requests, prompt, completion FROM key_usage WHERE day = ?",
        (today.isoformat(),),
    ).fetchall()
    return {key: Tally(*counts) for key, *counts in rows}
