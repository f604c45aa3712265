"""Shared holds: tokens that the servers of one store hold for keys, in the file of the store."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

TABLE = """
CREATE TABLE IF NOT EXISTS key_held (
    key TEXT, day TEXT, server TEXT, tokens INTEGER, PRIMARY KEY (key, day, server)
)"""
CHANGE = """
INSERT INTO key_held VALUES (?, ?, ?, ?) ON CONFLICT (key, day, server) DO UPDATE SET
    tokens = tokens + excluded.tokens"""
SEEN = """
SELECT
    (SELECT coalesce(sum(prompt + completion), 0) FROM key_usage WHERE key = :key AND day = :day),
    (SELECT coalesce(sum(tokens), 0) FROM key_held
        WHERE key = :key AND day = :day AND server <> :server)"""


class Seen(NamedTuple):
    """Tokens of a key on a day. used: those that are written, of all servers. held: by others."""

    used: int = 0
    held: int = 0


NOTHING = Seen()


class SharedHolds:
    """The part of one server. Its methods take the database in a transaction of the store.

    What a server held that was killed is free again when the next one of the store starts.
    """

    def __init__(self) -> None:
        # Its beginning tells whether the process lives.
        self._server = f"{os.getpid()}-{secrets.token_hex(4)}"

    def open(self, database: sqlite3.Connection, today: str) -> None:
        """Make the table, and let go of what nobody holds."""
        database.execute(TABLE)
        database.execute("DELETE FROM key_held WHERE day < ?", (today,))
        for (server,) in database.execute("SELECT DISTINCT server FROM key_held").fetchall():
            if not _lives(int(server.partition("-")[0])):
                database.execute("DELETE FROM key_held WHERE server = ?", (server,))

    def close(self, database: sqlite3.Connection) -> None:
        """Let go of everything."""
        database.execute("DELETE FROM key_held WHERE server = ?", (self._server,))

    def seen(self, database: sqlite3.Connection, key: str, day: str) -> Seen:
        """What all used and others hold."""
        values = {"key": key, "day": day, "server": self._server}
        return Seen(*database.execute(SEEN, values).fetchone())

    def change(self, database: sqlite3.Connection, changes: Iterable[tuple[str, str, int]]) -> None:
        """Hold more tokens, or less. changes: of a key on a day."""
        rows = [(key, day, self._server, tokens) for key, day, tokens in changes if tokens]
        database.executemany(CHANGE, rows)


def _lives(pid: int) -> bool:
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
