"""Store: records of clients, each with its owner, in memory or in a private SQLite file."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from budmlx.clock import CLOCK
from budmlx.errors import ConfigError

log = logging.getLogger(__name__)

VERSION = 1
BUSY_SECONDS = 5.0
"""How long to wait while another process writes to the same file."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    kind TEXT, owner TEXT, id TEXT, used REAL, size INTEGER, data BLOB,
    PRIMARY KEY (kind, owner, id)
);
CREATE TABLE IF NOT EXISTS names (
    kind TEXT, owner TEXT, name TEXT, id TEXT,
    PRIMARY KEY (kind, owner, name, id),
    FOREIGN KEY (kind, owner, id) REFERENCES records (kind, owner, id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS records_by_use ON records (kind, owner, used);
CREATE INDEX IF NOT EXISTS names_by_record ON names (kind, owner, id);
"""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one owner may keep: records, their bytes together, and seconds since their last use."""

    count: int
    size: int
    seconds: float


class _LaterVersionError(sqlite3.DatabaseError):
    """The file is of a version that is not known yet."""


class Store:
    """The database. Thread-safe.

    path: of the file, which is made if need be, readable by its owner alone; None keeps all in
    memory. One that is damaged, or was written by a later version, is set aside under another name,
    with a line in the log. schema: of a new file. setting: which names the file.
    set_aside: what follows the name of the former file, if this one begins anew; else empty.

    Raises:
        ConfigError: the file cannot be used, or is another program's.
    """

    def __init__(self, path: Path | None = None, schema: str = SCHEMA, setting: str = "store"):
        self._path = path
        self._lock = threading.Lock()
        self._told = ""
        self._setting = setting
        self.set_aside = ""
        try:
            try:
                self._connect(schema)
            except sqlite3.DatabaseError as error:
                if path is None or not self._is_spoilt(error, schema):
                    raise
                self._database.close()
                self._begin_anew(path, schema)
        except (OSError, sqlite3.Error) as error:
            raise unusable(setting, path, error) from error

    def _connect(self, schema: str) -> None:
        if self._path is not None:
            _make_private(self._path)
        self._database = sqlite3.connect(
            str(self._path or ":memory:"),
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        self._open(schema)

    def _begin_anew(self, path: Path, schema: str) -> None:
        """Set a file aside that is of no use, unless another process has just done so."""
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            try:
                self._connect(schema)
            except sqlite3.DatabaseError as error:
                if not self._is_spoilt(error, schema):
                    raise
                self._database.close()
                self.set_aside = f".set-aside-{time.strftime('%Y%m%d-%H%M%S')}"
                self._move_away(path, error)
                self._connect(schema)
        finally:
            os.close(directory)

    def _is_spoilt(self, error: sqlite3.DatabaseError, schema: str) -> bool:
        """Whether the file is one of ours that cannot be read; a stranger's is left alone."""
        if isinstance(error, _LaterVersionError):
            ours = re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", schema)
            tables = self._database.execute("SELECT name FROM sqlite_master").fetchall()
            return not {(each,) for each in ours}.isdisjoint(tables)
        return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT

    def _move_away(self, path: Path, error: Exception) -> None:
        """Give a file that is of no use, and what SQLite keeps beside it, another name."""
        name = path.name + self.set_aside
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).replace(path.with_name(name + suffix))
        log.error(
            "%s: %s cannot be used (%s): it is now %s, and a new one begins",
            self._setting,
            path,
            error,
            name,
        )

    def _open(self, schema: str) -> None:
        """Prepare the file, which others may do at the same time."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self._prepare(schema)
            except sqlite3.OperationalError as error:
                # SQLite itself does not wait when two turn a file to WAL.
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _prepare(self, schema: str) -> None:
        execute = self._database.execute
        execute("PRAGMA foreign_keys = ON")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        execute("PRAGMA secure_delete = ON")
        (version,) = execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise _LaterVersionError("a later version of budmlx wrote it")
        if version == 0:
            self._database.executescript(
                f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {VERSION}; COMMIT;"
            )

    @property
    def shared(self) -> bool:
        """Whether other processes may use it, too."""
        return self._path is not None

    def close(self) -> None:
        """Close the file; nothing can be kept afterwards."""
        with self._lock:
            self._database.close()

    def attempt(self, work: Callable[[sqlite3.Connection], Result], failed: Result) -> Result:
        """What a transaction returns; `failed`, and a line in the log, if the file fails."""
        try:
            with self._lock, self._database:
                self._database.execute("BEGIN IMMEDIATE")
                done = work(self._database)
        except sqlite3.Error as error:
            if str(error) != self._told:  # Those who wait for the disk try again and again.
                self._told = str(error)
                log.error("The store %s failed: %s", self._path or "in memory", error)
            return failed
        self._told = ""
        return done


class Shelf:
    """The records of one kind. Thread-safe; every method may wait for the disk.

    Of each owner those go first that were not used for the longest time.
    """

    def __init__(self, store: Store, kind: str, limits: Limits):
        self._store = store
        self._kind = kind
        self._limits = limits

    def put(self, owner: str, id: str, data: bytes, names: Sequence[str] = ()) -> bool:
        """Keep a record, in place of the one with its id; returns whether it is kept.

        names: further ones by which `find` knows it; several records may have the same.
        """

        def work(database: sqlite3.Connection) -> bool:
            key = (self._kind, owner, id)
            database.execute("DELETE FROM records WHERE kind = ? AND owner = ? AND id = ?", key)
            self._make_room(database, owner, len(data))
            database.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)",
                (*key, CLOCK.now(), len(data), data),
            )
            database.executemany(
                "INSERT OR IGNORE INTO names VALUES (?, ?, ?, ?)",
                [(self._kind, owner, name, id) for name in names],
            )
            return True

        return len(data) <= self._limits.size and self._store.attempt(work, failed=False)

    def get(self, owner: str, id: str) -> bytes | None:
        """The data of a record, which counts as a use; None if it is not kept."""

        def work(database: sqlite3.Connection) -> bytes | None:
            key = (self._kind, owner, id)
            row = database.execute(
                "SELECT data FROM records WHERE kind = ? AND owner = ? AND id = ? AND used > ?",
                (*key, CLOCK.passed() - self._limits.seconds),
            ).fetchone()
            if row is not None:
                database.execute(
                    "UPDATE records SET used = ? WHERE kind = ? AND owner = ? AND id = ?",
                    (CLOCK.now(), *key),
                )
            return None if row is None else bytes(row[0])

        return self._store.attempt(work, failed=None)

    def find(self, owner: str, name: str) -> str | None:
        """The id of the last record that has a name."""

        def work(database: sqlite3.Connection) -> str | None:
            row = database.execute(
                "SELECT id FROM names WHERE kind = ? AND owner = ? AND name = ? "
                "ORDER BY rowid DESC LIMIT 1",
                (self._kind, owner, name),
            ).fetchone()
            return None if row is None else str(row[0])

        return self._store.attempt(work, failed=None)

    def delete(self, owner: str, id: str) -> bool:
        """Forget a record; returns whether it was kept."""

        def work(database: sqlite3.Connection) -> bool:
            cursor = database.execute(
                "DELETE FROM records WHERE kind = ? AND owner = ? AND id = ?",
                (self._kind, owner, id),
            )
            return cursor.rowcount > 0

        return self._store.attempt(work, failed=False)

    def _make_room(self, database: sqlite3.Connection, owner: str, size: int) -> None:
        """Delete what is too old, and what must go for a record of `size` bytes."""
        database.execute(
            "DELETE FROM records WHERE kind = ? AND used <= ?",
            (self._kind, CLOCK.passed() - self._limits.seconds),
        )
        count, total = database.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM records WHERE kind = ? AND owner = ?",
            (self._kind, owner),
        ).fetchone()
        oldest = database.execute(
            "SELECT id, size FROM records WHERE kind = ? AND owner = ? ORDER BY used",
            (self._kind, owner),
        )
        for id, less in oldest.fetchall():
            if count < self._limits.count and total + size <= self._limits.size:
                break
            database.execute(
                "DELETE FROM records WHERE kind = ? AND owner = ? AND id = ?",
                (self._kind, owner, id),
            )
            count, total = count - 1, total - less


def _make_private(path: Path) -> None:
    """Make the file, readable by its owner alone. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)


def unusable(setting: str, path: Path | None, error: Exception) -> ConfigError:
    """The error for a place where nothing can be kept, with what to do about it."""
    reason = getattr(error, "strerror", None) or str(error)
    return ConfigError(
        f"{setting}: {path} cannot be used: {reason}. Name a place that this user can write, or "
        "leave the setting out: what clients store is then kept until the server ends.",
        param=setting,
    )
