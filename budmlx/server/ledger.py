"""Ledger: the tokens that each API key used of late, and how many it may still use today.

Days are those of UTC. What was used is written to the store a moment later, by a thread. Where
the store is a file, its limits hold for all servers of this machine that use it together.
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
from budmlx.server.shared_holds import NOTHING, Seen, SharedHolds
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
    """The use of a key on a day. held: tokens for requests that run. others: what other servers
    used and hold, as it was last seen.
    """

    used: Tally
    held: int = 0
    others: Seen = NOTHING

    @property
    def all_used(self) -> int:
        """Tokens that any server used."""
        return self.used.tokens + self.others.used

    @property
    def all_held(self) -> int:
        """Tokens that any server holds."""
        return self.held + self.others.held


@dataclass(slots=True)
class _Unwritten:
    """What the store does not know yet. released: tokens that are not held any more."""

    used: Tally
    released: int = 0


@dataclass(frozen=True, slots=True)
class DailyUse:
    """What a key used on a day, such as 2027-01-31."""

    key: str
    day: str
    used: Tally


class Ledger:
    """The use of all keys, by their names. Thread-safe; its lock is held for a moment only, and
    never while another process is waited for.

    What one key holds and has used never exceeds its limit, except by what prompts turn out to
    have more than was said of them.
    """

    def __init__(self, store: Store, now: Callable[[], datetime] = utc_now):
        self._store = store
        self._now = now
        self._lock = threading.Lock()
        self._closed = False
        self._unwritten: dict[tuple[str, date], _Unwritten] = {}
        self._writing: dict[tuple[str, date], _Unwritten] = {}
        self._shared = SharedHolds() if store.shared else None
        self._writer = ThreadPoolExecutor(1, "budmlx-ledger")
        self._today = today = now().date()
        nothing: dict[tuple[str, date], _Day] = {}
        self._days = store.attempt(partial(_opened, today=today), nothing)
        if self._shared is not None:
            store.attempt(partial(self._shared.open, today=today.isoformat()), None)

    def close(self) -> None:
        """Write what is not written. What is counted afterwards is not written."""
        with self._lock:
            self._closed = True
        self._writer.shutdown()
        if self._shared is not None:
            self._store.attempt(self._shared.close, None)

    def account(self, key: ApiKey) -> KeyAccount:
        """That of a key, with its limit as it is now."""
        return KeyAccount(self, key)

    def hold(self, key: ApiKey, prompt: int, completion: int, least: int) -> Reservation:
        """See `Account.reserve`."""
        found: list[Reservation] = []

        def work(database: sqlite3.Connection) -> bool:
            with self._lock:
                self._look(database, key.name)
                found.append(self._held(key, prompt, completion, least, told=True))
                self._shared_change(database, key.name, found[0])
            return True

        # What others do meanwhile waits, so that only one gets the last tokens.
        if self.waits(key) and self._store.attempt(work, failed=False):
            return found[0]
        with self._lock:
            if found:  # The file failed at the end: others do not know of these.
                found[0].told = False
                return found[0]
            return self._held(key, prompt, completion, least, told=False)

    def _held(
        self, key: ApiKey, prompt: int, completion: int, least: int, *, told: bool
    ) -> Reservation:
        """Tokens that are held from now on. Raises QuotaError. The lock is held."""
        granted = self._granted(key, prompt, completion, least)
        self._day(key.name).held += prompt + granted
        return Reservation(self, key.name, self._today, prompt, granted, told=told)

    def _shared_change(self, database: sqlite3.Connection, key: str, held: Reservation) -> None:
        if self._shared is not None:
            self._shared.change(database, [(key, self._today.isoformat(), held.tokens)])

    def waits(self, key: ApiKey) -> bool:
        """See `Account.waits`."""
        return self._shared is not None and key.tokens_per_day is not None

    def check(self, key: ApiKey) -> None:
        """See `Account.check`."""
        with self._lock:
            day, limit = self._day(key.name), key.tokens_per_day
            if limit is not None and day.all_used >= limit:
                raise self._refusal(limit, day, 1)

    def _granted(self, key: ApiKey, prompt: int, completion: int, least: int) -> int:
        """The tokens that a request may generate. Raises QuotaError. The lock is held."""
        day, limit = self._day(key.name), key.tokens_per_day
        if limit is None:
            return completion
        left = limit - day.all_used - day.all_held - prompt
        if left < least:
            raise self._refusal(limit, day, prompt + least)
        return min(completion, left)

    def _look(self, database: sqlite3.Connection, key: str) -> None:
        """See what other servers used and hold. The lock is held, and that of the store."""
        if self._shared is None:
            return
        day, place = self._day(key), (key, self._today)
        seen = self._shared.seen(database, key, self._today.isoformat())
        places = (self._unwritten, self._writing)
        own = sum(each[place].used.tokens for each in places if place in each)
        day.others = Seen(max(0, seen.used + own - day.used.tokens), seen.held)

    def settle(self, key: str, day: date, held: int, used: Tally, *, told: bool) -> None:
        """Let go of what was held for a request, and count what it used. told: to other servers."""
        with self._lock:
            there = self._days.setdefault((key, day), _Day(Tally(), held))
            there.held -= held
            there.used.add(used)
            if not self._unwritten and not self._closed:
                self._writer.submit(self._write)
            unwritten = self._unwritten.setdefault((key, day), _Unwritten(Tally()))
            unwritten.used.add(used)
            unwritten.released += held if told else 0

    def left(self, key: ApiKey) -> int | None:
        """The tokens that a key may use today, beside those that are held; None for any number.

        Waits for the disk.
        """

        def work(database: sqlite3.Connection) -> None:
            with self._lock:
                self._look(database, key.name)

        if (limit := key.tokens_per_day) is None:
            return None
        if self._shared is not None:
            self._store.attempt(work, None)
        with self._lock:
            day = self._day(key.name)
            return max(0, limit - day.all_used - day.all_held)

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
            # Where a clock was set, it comes back to a day on which something was used.
            self._days = {
                place: day
                for place, day in self._days.items()
                if day.held or abs((place[1] - today).days) <= DAYS_KEPT
            }
        return self._days.setdefault((key, today), _Day(Tally()))

    @property
    def reset_time(self) -> datetime:
        """When the day ends."""
        return datetime.combine(self._now().date() + timedelta(days=1), time(), UTC)

    def _refusal(self, limit: int, day: _Day, wanted: int) -> QuotaError:
        left = max(0, limit - day.all_used)
        said = f"This request may take {wanted} tokens; this API key has {left} left of {limit} "
        if wanted <= left:
            return QuotaError(
                f"{said}per day, of which {day.all_held} are held for requests that run. Retry "
                "when these have ended, or with a smaller `max_tokens`.",
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
            self._writing = unwritten
        rows, released = [], []
        for (key, day), each in unwritten.items():
            used = each.used
            rows.append((key, day.isoformat(), used.requests, used.prompt, used.completion))
            released.append((key, day.isoformat(), -each.released))

        def work(database: sqlite3.Connection) -> None:
            database.executemany(ADD, rows)
            if self._shared is not None:
                self._shared.change(database, released)
            # Within the transaction, so that whoever looks sees it here or there.
            self._writing = {}

        self._store.attempt(work, None)


class KeyAccount:
    """The `Account` of a key."""

    def __init__(self, ledger: Ledger, key: ApiKey):
        self._ledger = ledger
        self._key = key

    def reserve(self, prompt: int, completion: int, least: int) -> Reservation:
        """See `Account`."""
        return self._ledger.hold(self._key, prompt, completion, least)

    @property
    def waits(self) -> bool:
        """See `Account`."""
        return self._ledger.waits(self._key)

    def check(self) -> None:
        """See `Account`."""
        self._ledger.check(self._key)


class Reservation:
    """Tokens that are held for a request. completion: those that it may generate. tokens: these
    and those of its prompt. told: other servers know of them.
    """

    def __init__(
        self, ledger: Ledger, key: str, day: date, prompt: int, completion: int, *, told: bool
    ):
        self.completion = completion
        self._ledger = ledger
        self._place = key, day
        self.tokens, self.told = prompt + completion, told

    def settle(self, usage: Usage | None) -> None:
        """See `engine.run.origin.Reservation`."""
        used = Tally(1)
        if usage is not None:
            used = Tally(1, usage.prompt_tokens, usage.completion_tokens)
        self._ledger.settle(*self._place, self.tokens, used, told=self.told)


def _opened(database: sqlite3.Connection, today: date) -> dict[tuple[str, date], _Day]:
    """Make the table, forget what is old, and return the rest, by key and day."""
    database.execute(TABLE)
    oldest = (today - timedelta(days=DAYS_KEPT)).isoformat()
    database.execute("DELETE FROM key_usage WHERE day < ?", (oldest,))
    rows = database.execute("SELECT key, day, requests, prompt, completion FROM key_usage")
    return {(key, date.fromisoformat(day)): _Day(Tally(*counts)) for key, day, *counts in rows}
