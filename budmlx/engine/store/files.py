"""Files: what clients upload and what batches write, in a private directory with an index."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

from budmlx.clock import CLOCK
from budmlx.engine.store.ids import new_id
from budmlx.engine.store.store import Limits, Store, unusable
from budmlx.errors import ConfigError, InvalidRequestError, OverloadedError

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE files (
    id TEXT PRIMARY KEY, owner TEXT, name TEXT, purpose TEXT, size INTEGER, created INTEGER,
    expires INTEGER
);
CREATE INDEX files_by_owner ON files (owner);
CREATE TABLE batches (id TEXT PRIMARY KEY, owner TEXT, over INTEGER, data BLOB);
CREATE INDEX batches_by_owner ON batches (owner);
CREATE TABLE lines (
    batch TEXT, number INTEGER, failed INTEGER, data BLOB, PRIMARY KEY (batch, number)
) WITHOUT ROWID;
"""
INDEX = "index.sqlite"
LOCK = "lock"
PART = ".part"
FIELDS = "id, owner, name, purpose, size, created, expires"
FAILED = "The server cannot keep files now; its log says more."


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that is kept. owner: identifies the API key. created, expires: seconds since 1970."""

    id: str
    owner: str
    name: str
    purpose: str
    size: int
    created: int
    expires: int | None = None


class FileStore:
    """The files of all API keys. Thread-safe; every method may wait for the disk.

    Names on disk are ids that are made here, never what a client says. Files whose index is of no
    use, see `Store`, are set aside with it.

    directory: readable by its owner alone, made if need be, and used by one process at a time;
    None: a temporary one, which is removed at the end. limits: what one owner may keep; `size` is
    that of all its files. file_size: of the largest file.
    store: the index, which has the tables of batches, too. tag: see `new_id`.

    Raises:
        ConfigError: the directory cannot be used.
    """

    def __init__(self, directory: Path | None, limits: Limits, file_size: int, tag: str = ""):
        self.limits, self.file_size, self.tag = limits, file_size, tag
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="budmlx-files-"))
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
            self._lock = (self.directory / LOCK).open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"files_dir: another server uses {self.directory}; each needs a directory of its "
                "own.",
                param="files_dir",
            ) from error
        except OSError as error:
            raise unusable("files_dir", self.directory, error) from error
        self.store = Store(self.directory / INDEX, SCHEMA, "files_dir")
        if self.store.set_aside:
            self._move_away(self.directory / f"files{self.store.set_aside}")
        self._sweep()

    def close(self) -> None:
        """Keep nothing any more."""
        self.store.close()
        self._lock.close()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def upload(self, owner: str) -> Upload:
        """A file to write; nothing of it is kept before `Upload.keep`."""
        return Upload(self, owner, new_id("file-", self.tag))

    def path(self, file: StoredFile) -> Path:
        """Where the content is."""
        return self.directory / file.id

    def get(self, owner: str, id: str) -> StoredFile | None:
        """A file; None if the owner has none of this id."""
        found = self._select("owner = ? AND id = ?", owner, id)
        return found[0] if found and not _expired(found[0]) else None

    def listed(self, owner: str) -> list[StoredFile]:
        """All files of an owner, the oldest first."""
        return [each for each in self._select("owner = ?", owner) if not _expired(each)]

    def remove(self, file: StoredFile) -> None:
        """Forget a file."""

        def work(database: sqlite3.Connection) -> bool:
            database.execute("DELETE FROM files WHERE id = ?", (file.id,))
            return True

        if not self.store.attempt(work, failed=False):
            raise OverloadedError(FAILED)
        self.path(file).unlink(missing_ok=True)

    def expired(self) -> list[StoredFile]:
        """Files whose time is over, and which are not removed yet."""
        return self._select("expires <= ?", CLOCK.passed())

    def write(self, file: StoredFile, lines: Iterable[bytes]) -> StoredFile:
        """Keep a file with these lines, in place of one of its id; returns it with its size.

        It counts for no limit, since a batch writes it. Raises OverloadedError if it cannot.
        """
        path = self.path(file)
        try:
            with open_private(path.with_suffix(PART)) as output:
                for line in lines:
                    output.write(line + b"\n")
                size = output.tell()
                output.flush()
                os.fsync(output.fileno())
            path.with_suffix(PART).rename(path)
        except OSError as error:
            path.with_suffix(PART).unlink(missing_ok=True)
            raise OverloadedError(FAILED) from error
        kept = replace(file, size=size)
        self.insert(kept)
        return kept

    def insert(self, file: StoredFile, *, limited: bool = False) -> None:
        """Add a file to the index. limited: unless its owner would have too many then.

        Raises InvalidRequestError for that, OverloadedError if the index cannot be written.
        """

        def work(database: sqlite3.Connection) -> str:
            if limited and (problem := self._beyond(database, file)):
                return problem
            row = [getattr(file, name) for name in FIELDS.split(", ")]
            database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            return ""

        problem = self.store.attempt(work, failed=FAILED)
        if problem == FAILED:
            raise OverloadedError(FAILED)
        if problem:
            raise InvalidRequestError(problem, param="file", code="too_many_files")

    def check(self, owner: str, size: int = 0) -> None:
        """Raise InvalidRequestError if the files of an owner, with all that batches have written,
        and `size` bytes more, are beyond the limits; OverloadedError as `insert`.
        """
        found = self.store.attempt(lambda database: self._held(database, owner), failed=None)
        if found is None:
            raise OverloadedError(FAILED)
        if found[0] > self.limits.count or found[1] + size > self.limits.size:
            raise InvalidRequestError(
                f"Batches of this API key have written so much that it has more than "
                f"{self.limits.count} files or {self.limits.size} bytes; delete some.",
                code="too_many_files",
            )

    def _beyond(self, database: sqlite3.Connection, file: StoredFile) -> str:
        """Which limit the files of an owner would exceed with a further one, as a sentence."""
        count, size = self._held(database, file.owner)
        if count >= self.limits.count:
            return f"An API key keeps at most {self.limits.count} files; delete some."
        if size + file.size > self.limits.size:
            return f"An API key keeps at most {self.limits.size} bytes of files; delete some."
        return ""

    def _held(self, database: sqlite3.Connection, owner: str) -> tuple[int, int]:
        """How many files an owner has, and their bytes."""
        query = "SELECT count(*), coalesce(sum(size), 0) FROM files WHERE owner = ?"
        count, size = database.execute(query, (owner,)).fetchone()
        return count, size

    def _select(self, where: str, *values: Any) -> list[StoredFile]:
        def work(database: sqlite3.Connection) -> list[StoredFile] | None:
            query = f"SELECT {FIELDS} FROM files WHERE {where} ORDER BY rowid"
            return [StoredFile(*row) for row in database.execute(query, values)]

        found = self.store.attempt(work, failed=None)
        if found is None:
            raise OverloadedError(FAILED)
        return found

    def _move_away(self, aside: Path) -> None:
        """Keep the content of files that no index knows any more for whoever runs the server."""
        paths = [path for path in self.directory.iterdir() if path.name.startswith("file-")]
        if paths:
            aside.mkdir(mode=0o700, exist_ok=True)
            for path in paths:
                path.rename(aside / path.name)
            log.error("files_dir: the content of its %d files is now in %s", len(paths), aside)

    def _sweep(self) -> None:
        """Remove what a process that was killed left behind, and what has no entry."""
        known = {file.id for file in self._select("1")}
        for path in self.directory.iterdir():
            if path.name.startswith("file-") and path.name not in known:
                path.unlink(missing_ok=True)


class Upload:
    """A file that is being written; as a context, it leaves nothing behind unless it was kept."""

    def __init__(self, files: FileStore, owner: str, id: str):
        self._files = files
        self._owner, self._id = owner, id
        self._path = (files.directory / id).with_suffix(PART)
        self._size = 0
        try:
            self._output: BinaryIO = open_private(self._path)
        except OSError as error:
            raise OverloadedError(FAILED) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._output.close()
        except OSError:
            pass  # The disk is full; nothing of the file is wanted.
        finally:
            self._path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Add data. Raises InvalidRequestError if the file is too large, OverloadedError if the
        disk is full.
        """
        self._size += len(data)
        if self._size > self._files.file_size:
            raise InvalidRequestError(
                f"A file may have {self._files.file_size} bytes.", param="file", code="too_large"
            )
        try:
            self._output.write(data)
        except OSError as error:
            raise OverloadedError(FAILED) from error

    def keep(self, name: str, purpose: str, seconds: int | None = None) -> StoredFile:
        """Keep the file, for so many seconds. Raises as `FileStore.insert`."""
        now = int(CLOCK.now())
        expires = None if seconds is None else now + seconds
        file = StoredFile(self._id, self._owner, name, purpose, self._size, now, expires)
        try:
            self._output.flush()
            os.fsync(self._output.fileno())
            self._path.rename(self._files.path(file))
            self._files.insert(file, limited=True)
        except OSError as error:
            raise OverloadedError(FAILED) from error
        except (InvalidRequestError, OverloadedError):
            self._files.path(file).unlink(missing_ok=True)
            raise
        return file


def open_private(path: Path) -> BinaryIO:
    """A new file that its owner alone can read. Raises OSError."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _expired(file: StoredFile) -> bool:
    return file.expires is not None and file.expires <= CLOCK.passed()
