"""Batches: their records, and the replies to their lines, each of which is kept once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import TypeVar

from budmlx.engine.store.files import FAILED
from budmlx.engine.store.store import Store
from budmlx.errors import OverloadedError

PAGE = 256
"""Lines, or records, that are read at once."""

Result = TypeVar("Result")


class BatchStore:
    """The batches of all API keys. Thread-safe; every method may wait for the disk.

    What a method has written is there after the process was killed. Methods raise OverloadedError
    if the file cannot be read or written.

    store: has the tables of `FileStore`.
    """

    def __init__(self, store: Store):
        self._store = store

    def put(self, owner: str, id: str, data: bytes, *, over: bool = False) -> None:
        """Keep a record, in place of the one with its id.

        over: nothing is left to do, so that the replies to its lines are dropped.
        """

        def work(database: sqlite3.Connection) -> bool:
            database.execute(
                "INSERT INTO batches VALUES (?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET over = excluded.over, data = excluded.data",
                (id, owner, over, data),
            )
            if over:
                database.execute("DELETE FROM lines WHERE batch = ?", (id,))
            return True

        self._work(work)

    def get(self, owner: str, id: str) -> bytes | None:
        """A record; None if the owner has none."""

        def work(database: sqlite3.Connection) -> list[bytes]:
            query = "SELECT data FROM batches WHERE owner = ? AND id = ?"
            return [bytes(data) for (data,) in database.execute(query, (owner, id))]

        return next(iter(self._work(work)), None)

    def remove(self, owner: str, id: str) -> None:
        """Forget a record."""

        def work(database: sqlite3.Connection) -> bool:
            database.execute("DELETE FROM batches WHERE owner = ? AND id = ?", (owner, id))
            return True

        self._work(work)

    def trim(self, owner: str, most: int) -> None:
        """Forget the oldest records of an owner that are over, until there are `most`."""

        def work(database: sqlite3.Connection) -> bool:
            query = "SELECT count(*) FROM batches WHERE owner = ?"
            (count,) = database.execute(query, (owner,)).fetchone()
            database.execute(
                "DELETE FROM batches WHERE rowid IN (SELECT rowid FROM batches "
                "WHERE owner = ? AND over ORDER BY rowid LIMIT ?)",
                (owner, max(0, count - most)),
            )
            return True

        self._work(work)

    def forget(self, is_old: Callable[[bytes], bool]) -> None:
        """Forget records that are over and old, the oldest first, up to one that is not."""

        def work(database: sqlite3.Connection) -> list[int]:
            query = "SELECT rowid, data FROM batches WHERE over ORDER BY rowid LIMIT ?"
            old = []
            for rowid, data in database.execute(query, (PAGE,)).fetchall():
                if not is_old(bytes(data)):
                    break
                old.append(rowid)
            database.executemany("DELETE FROM batches WHERE rowid = ?", [(each,) for each in old])
            return old

        while len(self._work(work)) == PAGE:
            pass

    def listed(self, owner: str) -> list[bytes]:
        """All records of an owner, the newest first."""

        def work(database: sqlite3.Connection) -> list[bytes]:
            query = "SELECT data FROM batches WHERE owner = ? ORDER BY rowid DESC"
            return [bytes(data) for (data,) in database.execute(query, (owner,))]

        return self._work(work)

    def unfinished(self) -> list[tuple[str, bytes]]:
        """The owners and records of batches that are not over, the oldest first."""

        def work(database: sqlite3.Connection) -> list[tuple[str, bytes]]:
            query = "SELECT owner, data FROM batches WHERE NOT over ORDER BY rowid"
            return [(str(owner), bytes(data)) for owner, data in database.execute(query)]

        return self._work(work)

    def put_line(self, batch: str, number: int, data: bytes, *, failed: bool) -> None:
        """Keep the reply to a line; the first one stays."""

        def work(database: sqlite3.Connection) -> bool:
            row = (batch, number, failed, data)
            database.execute("INSERT OR IGNORE INTO lines VALUES (?, ?, ?, ?)", row)
            return True

        self._work(work)

    def numbered(self, batch: str, *, failed: bool) -> Iterator[tuple[int, bytes]]:
        """The replies with the numbers of their lines, in this order."""
        last = -1
        while page := self._page(batch, last, failed=failed):
            yield from page
            last = page[-1][0]

    def lines(self, batch: str, *, failed: bool) -> Iterator[bytes]:
        """The replies, in the order of the lines."""
        return (data for _, data in self.numbered(batch, failed=failed))

    def _page(self, batch: str, after: int, *, failed: bool) -> list[tuple[int, bytes]]:
        def work(database: sqlite3.Connection) -> list[tuple[int, bytes]]:
            found = database.execute(
                "SELECT number, data FROM lines WHERE batch = ? AND number > ? AND failed = ? "
                "ORDER BY number LIMIT ?",
                (batch, after, failed, PAGE),
            )
            return [(number, bytes(data)) for number, data in found]

        return self._work(work)

    def _work(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        found = self._store.attempt(lambda database: (work(database),), failed=None)
        if found is None:
            raise OverloadedError(FAILED)
        return found[0]
