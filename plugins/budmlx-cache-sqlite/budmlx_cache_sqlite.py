"""A response cache in an SQLite file, shared by all servers that name the same file."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ByteSize, ConfigDict, Field

from budmlx import hookimpl
from budmlx.config import Config, cache_directory
from budmlx.plugins.specs import CacheStats, ResponseCache

log = logging.getLogger(__name__)

VERSION = 1
BUSY_SECONDS = 1.0
TOUCH_SECONDS = 60.0
"""A reply that was used so recently is not marked as used again, to spare the disk."""
ROW_BYTES = 256
"""What a row costs beyond its value."""

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, checksum BLOB NOT NULL,
    expires REAL NOT NULL, used REAL NOT NULL);
CREATE INDEX IF NOT EXISTS by_use ON replies (used);
CREATE INDEX IF NOT EXISTS by_expiry ON replies (expires);
CREATE TABLE IF NOT EXISTS total (bytes INTEGER NOT NULL);
INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT * FROM total);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON replies BEGIN
    UPDATE total SET bytes = bytes + length(NEW.value) + {ROW_BYTES}; END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON replies BEGIN
    UPDATE total SET bytes = bytes - length(OLD.value) - {ROW_BYTES}; END;
"""

T = TypeVar("T")


class Options(BaseModel):
    """The settings of this plugin."""

    model_config = ConfigDict(extra="forbid")

    path: Path = Field(default_factory=lambda: cache_directory() / "responses.sqlite3")
    size: ByteSize = Field(ByteSize(256 * 2**20), gt=0)
    ttl: float = Field(30 * 86400.0, gt=0)


@hookimpl
def provide_response_cache(config: Config) -> ResponseCache:
    """The cache that the settings describe. The file is opened when it is first used."""
    options = config.options_of("cache-sqlite", Options)
    return SqliteCache(options.path.expanduser(), int(options.size), options.ttl)


class SqliteCache:
    """A `ResponseCache` of at most `size` bytes in the file `path`. Thread-safe."""

    def __init__(self, path: Path, size: int, ttl: float = 30 * 86400.0):
        self._path = path
        self._size = size
        self._ttl = ttl
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def get(self, key: str) -> bytes | None:
        """See `ResponseCache`. A damaged row is a miss, and goes."""
        return self._run(lambda db: self._get(db, key))

    def set(self, key: str, value: bytes, ttl: float | None) -> None:
        """See `ResponseCache`."""
        expires = time.time() + (self._ttl if ttl is None else ttl)
        self._run(lambda db: self._set(db, key, value, expires))

    def delete(self, key: str) -> None:
        """See `ResponseCache`."""
        self._run(lambda db: db.execute("DELETE FROM replies WHERE key = ?", (key,)))

    def clear(self) -> None:
        """See `ResponseCache`."""
        self._run(lambda db: db.execute("DELETE FROM replies"))

    def stats(self) -> CacheStats:
        """See `ResponseCache`."""
        query = "SELECT (SELECT count(*) FROM replies), bytes FROM total"
        return CacheStats(*self._run(lambda db: db.execute(query).fetchone()))

    def close(self) -> None:
        """See `ResponseCache`."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _get(self, db: sqlite3.Connection, key: str) -> bytes | None:
        query = "SELECT value, checksum, used FROM replies WHERE key = ? AND expires > ?"
        now = time.time()
        row = db.execute(query, (key, now)).fetchone()
        if row is None:
            return None
        value, checksum, used = row
        if not isinstance(value, bytes) or _checksum(key, value) != checksum:
            log.warning("A reply in %s is damaged and was dropped", self._path)
            db.execute("DELETE FROM replies WHERE key = ?", (key,))
            return None
        if not now - TOUCH_SECONDS < used <= now:
            _touch(db, key, now)
        return value

    def _set(self, db: sqlite3.Connection, key: str, value: bytes, expires: float) -> None:
        if len(value) + ROW_BYTES > self._size:
            return
        now = time.time()
        db.execute("BEGIN IMMEDIATE")
        with db:
            db.execute("DELETE FROM replies WHERE key = ? OR expires <= ?", (key, now))
            row = (key, value, _checksum(key, value), expires, now)
            db.execute("INSERT INTO replies VALUES (?, ?, ?, ?, ?)", row)
            while db.execute("SELECT bytes FROM total").fetchone()[0] > self._size:
                oldest = "SELECT key FROM replies WHERE key != ? ORDER BY used LIMIT 8"
                db.execute(f"DELETE FROM replies WHERE key IN ({oldest})", (key,))
        db.execute("PRAGMA incremental_vacuum").fetchall()

    def _run(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Run an action; if the file is found to be damaged, on a fresh one."""
        with self._lock:
            try:
                return action(self._open())
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                log.warning("%s is damaged (%s) and is put aside", self._path, error)
                self._quarantine()
                return action(self._open())

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        self._inode = self._path.stat().st_ino
        db = sqlite3.connect(
            self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] not in (0, VERSION):
                raise sqlite3.OperationalError("the file was written by another version")
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            _use_wal(db)
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA journal_size_limit = {2**22}").fetchall()
            db.execute("PRAGMA recursive_triggers = ON")
            db.executescript(f"BEGIN IMMEDIATE;{SCHEMA}PRAGMA user_version = {VERSION}; COMMIT;")
        except BaseException:
            db.close()
            raise
        self._connection = db
        return db

    def _quarantine(self) -> None:
        """Rename the file, unless another process has begun a new one meanwhile."""
        self.close()
        try:
            if self._path.stat().st_ino != self._inode:
                return
        except FileNotFoundError:
            return
        number = time.time_ns()
        for suffix in ("", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                file.rename(file.with_name(f"{self._path.name}.corrupt-{number}{suffix}"))


def _use_wal(db: sqlite3.Connection) -> None:
    """Make a write-ahead log. SQLite itself does not wait when two processes do that at once."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _touch(db: sqlite3.Connection, key: str, now: float) -> None:
    """Mark a reply as used, if that can be written; a full disk can still be read."""
    try:
        db.execute("UPDATE replies SET used = ? WHERE key = ?", (now, key))
    except sqlite3.OperationalError as error:
        log.debug("Cannot mark a reply as used: %s", error)


def _checksum(key: str, value: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + value).digest()


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
