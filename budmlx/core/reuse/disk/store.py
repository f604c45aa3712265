"""The disk tier of the prefix cache: blocks of one model in a directory that models share.

A block's key is a hash of everything that it depends on, its prefix included, so the names of the
files are the index: there is nothing else that a crash could leave behind.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from budmlx.core.reuse.disk import files as kv_files
from budmlx.core.reuse.disk.files import SUFFIX, BadFileError, Layout
from budmlx.core.reuse.disk.sweep import BAD, files, sweep
from budmlx.protocol import DiskCounts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a store's queue, and the intervals of its maintenance.

    queue: bytes that wait to be written; more are dropped, since this memory is not budgeted.
    jobs: blocks that wait. pause: seconds without writing after the disk refused, and
    between warnings. rescan: seconds between sweeps, which find what other processes did.
    """

    queue: int = 256 * 2**20
    jobs: int = 1024
    pause: float = 60.0
    rescan: float = 60.0


BOUNDS = Bounds()


@dataclass(frozen=True, slots=True)
class _Job:
    """A block to write, or, without arrays, only to mark as used. path: keys from the first."""

    path: Sequence[bytes]
    tokens: int = 0
    arrays: Sequence[bytes] = ()

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.arrays))


def chain(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a block by that of the block before it; tokens are 64-bit integers."""
    return hashlib.sha256(parent + array("q", tokens).tobytes()).digest()


def chains(parent: bytes, tokens: Sequence[int]) -> Iterator[tuple[bytes, int]]:
    """Keys of all blocks that `tokens` begin with, and their lengths; the longest first."""
    digest = hashlib.sha256(parent)
    keys = []
    for token in tokens:
        digest.update(array("q", (token,)).tobytes())
        keys.append(digest.digest())
    for length in range(len(keys), 0, -1):
        yield keys[length - 1], length


class KVStore:
    """Blocks on disk. One thread may use it; files are written by a thread of its own.

    directory: of all models; it is made when needed. model: name, for people. identity: all
    that the content of blocks depends on beside tokens. limit: bytes of all files of all models.
    Every failure of the disk is a miss, or a block that is not kept.
    """

    def __init__(
        self,
        directory: Path,
        model: str,
        identity: str,
        layout: Layout,
        limit: int,
        bounds: Bounds = BOUNDS,
    ):
        self._bounds = bounds
        self.counters = DiskCounts()
        self._directory = directory
        self._identity = hashlib.sha256(f"{kv_files.VERSION} {identity}".encode()).digest()
        name = re.sub(r"[^\w.-]+", "--", model, flags=re.ASCII)[:80]
        self._folder = directory / f"{name}-{self._identity.hex()[:16]}"
        self._layout = layout
        self._limit = limit
        self._keys = {path.name[:64] for path in files(self._folder) if self._is_own(path)}
        self._lost: set[str] = set()
        self._total = 0
        self._swept = -bounds.rescan
        self._resume = 0.0
        self._warned = -bounds.pause
        self._jobs: deque[_Job] = deque()
        self._queued = 0
        self._closing = False
        self._wake = threading.Condition()
        self._writer = threading.Thread(target=self._write_all, name="budmlx-kv", daemon=True)
        self._writer.start()

    def root(self, namespace: str) -> bytes:
        """The parent key of a namespace's first block."""
        return hashlib.sha256(self._identity + namespace.encode()).digest()

    def __contains__(self, key: bytes) -> bool:
        """Whether the index has the block; its file may be gone."""
        return key.hex() in self._keys

    @property
    def accepts(self) -> bool:
        """Whether a block would be queued now."""
        room = self._queued < self._bounds.queue and len(self._jobs) < self._bounds.jobs
        return room and time.monotonic() >= self._resume and not self._closing

    def load(self, key: bytes, tokens: int) -> list[memoryview] | None:
        """The bytes of a block's arrays; None if it cannot be used."""
        name = key.hex()
        try:
            arrays = kv_files.read(self._folder, name, self._layout, tokens)
        except (OSError, BadFileError) as error:
            self.counters.misses += 1
            with self._wake:
                self._keys.discard(name)
                self._lost.add(name)
            if isinstance(error, BadFileError):
                self._quarantine(name)
            elif not isinstance(error, FileNotFoundError):
                self._warn("cannot be read", error)
            return None
        self.counters.hits += 1
        self.counters.hit_bytes += sum(map(len, arrays))
        return arrays

    def save(self, path: Sequence[bytes], tokens: int, arrays: Sequence[bytes]) -> None:
        """Queue a block to be written, or drop it. path: the keys up to its own."""
        if self.accepts:
            self._put(_Job(path, tokens, arrays))
        else:
            self.drop()

    def use(self, path: Sequence[bytes]) -> None:
        """Mark blocks as recently used. path: keys from the first one on."""
        if self.accepts:
            self._put(_Job(path))

    def drop(self, blocks: int = 1) -> None:
        """Count blocks that are not written."""
        with self._wake:
            self.counters.dropped += blocks

    def forget(self) -> None:
        """Drop all blocks that wait to be written."""
        with self._wake:
            self.drop(sum(bool(job.arrays) for job in self._jobs))
            self._queued -= sum(job.nbytes for job in self._jobs)
            self._jobs.clear()

    def close(self, seconds: float) -> None:
        """Wait up to `seconds` for blocks that are not written yet."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._writer.join(seconds)

    def _put(self, job: _Job) -> None:
        with self._wake:
            self._jobs.append(job)
            self._queued += job.nbytes
            self._wake.notify()

    def _quarantine(self, name: str) -> None:
        log.warning("the KV file %s was damaged; its prompt is computed anew", name[:12])
        self.counters.quarantined += 1
        path = self._folder / f"{name}{SUFFIX}"
        with suppress(OSError):
            path.rename(path.with_suffix(BAD))

    def _warn(self, what: str, error: OSError) -> None:
        now = time.monotonic()
        if now - self._warned >= self._bounds.pause:
            self._warned = now
            log.warning("KV of prompts %s: %s; they are computed anew", what, error)

    # On the writer's thread

    def _write_all(self) -> None:
        self._sweep()
        while (job := self._next()) is not None:
            try:
                self._write(job)
            except OSError as error:
                self.drop()
                if not isinstance(error, FileNotFoundError):  # somebody cleared the directory
                    self._resume = time.monotonic() + self._bounds.pause
                    self._warn("cannot be kept on disk", error)
            with self._wake:
                self._queued -= job.nbytes

    def _next(self) -> _Job | None:
        with self._wake:
            self._wake.wait_for(lambda: self._jobs or self._closing)
            return self._jobs.popleft() if self._jobs else None

    def _write(self, job: _Job) -> None:
        name = job.path[-1].hex()
        if job.arrays and job.nbytes <= self._limit and name not in self._keys:
            self._directory.mkdir(0o700, parents=True, exist_ok=True)
            self._folder.mkdir(0o700, exist_ok=True)
            nbytes = kv_files.write(self._folder, name, self._layout, job.tokens, job.arrays)
            self._keys.add(name)
            self._total += nbytes
            self.counters.written += 1
            self.counters.written_bytes += job.nbytes
        # The first block is the newest, so that none is removed before those that need it.
        now = time.time_ns()
        for age, key in enumerate(job.path):
            try:
                os.utime(self._folder / f"{key.hex()}{SUFFIX}", ns=(now - age, now - age))
            except OSError:
                self._keys.discard(key.hex())
        if self._total > self._limit or time.monotonic() - self._swept >= self._bounds.rescan:
            self._sweep()

    def _sweep(self) -> None:
        """Remove files down to the limit, and update the index with what other processes did."""
        self._swept = time.monotonic()
        with self._wake:
            self._lost.clear()
        left = sweep(self._directory, self._limit)
        self._total = sum(left.values())
        with self._wake:
            # What was lost meanwhile may have been seen before.
            self._keys = {path.name[:64] for path in left if self._is_own(path)} - self._lost
        if self._total > self._limit:
            self._resume = time.monotonic() + self._bounds.pause

    def _is_own(self, path: Path) -> bool:
        return path.parent == self._folder and path.suffix == SUFFIX
