"""Digests of weight files: computed once for each file, and kept in the user's cache.

A file is read whole the first time it is met, by several threads, and again only when its size or
one of its times is another. What is kept is trusted like the weights themselves: both belong to
the user.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from budmlx.directories import cache_directory

log = logging.getLogger(__name__)

# Bytes that one thread digests at a time, and those it reads at once.
PIECE = 64 * 2**20
CHUNK = 2**20
THREADS = 8
# Files of fewer bytes are read each time: that takes no longer than keeping their digests.
SMALL = 16 * 2**20
# A file that was written just now may be written again without a visible change of its times.
SETTLED_NS = 2 * 10**9


@dataclass(frozen=True, slots=True)
class _Known:
    """What must be the same for a digest to hold. times: of the content and of the inode, in ns."""

    size: int
    times: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> _Known:
        status = path.stat()
        return cls(status.st_size, (status.st_mtime_ns, status.st_ctime_ns))

    @property
    def settled(self) -> bool:
        return max(self.times) < time.time_ns() - SETTLED_NS

    @property
    def text(self) -> str:
        return f"{self.size} {self.times[0]} {self.times[1]}"


class WeightDigests:
    """The digests of the files of weights in one model's directory.

    directory: where they are kept; by default a folder of the user's cache. reads: files that
    were read whole.
    """

    def __init__(self, model: Path, directory: Path | None = None):
        name = hashlib.sha256(os.fsencode(model.resolve())).hexdigest()[:32]
        self._file = (directory or cache_directory() / "digests") / f"{name}.json"
        self.reads = 0

    def of(self, paths: Sequence[Path]) -> list[str]:
        """The digest of each file, in hexadecimal. Raises OSError."""
        known = {path: _Known.of(path) for path in paths}
        kept = self._kept() if any(each.size >= SMALL for each in known.values()) else {}
        found = dict[str, str]()
        digests, new = [], False
        with ThreadPoolExecutor(THREADS, "budmlx-digest") as pool:
            for path, each in known.items():
                key = f"{path.name} {each.text}"
                digest = kept.get(key)
                if digest is None:
                    digest = self._read(path, each.size, pool)
                    new = new or (each.size >= SMALL and each.settled)
                if each.size >= SMALL and each.settled:
                    found[key] = digest
                digests.append(digest)
        if new:
            self._keep(found)
        return digests

    def _read(self, path: Path, size: int, pool: ThreadPoolExecutor) -> str:
        self.reads += 1
        if size >= 2**30:
            log.info("reading %s once, to know its weights by their digest", path.name)
        with path.open("rb") as file:
            number = file.fileno()
            pieces = pool.map(lambda begin: _piece(number, begin), range(0, size, PIECE))
            return hashlib.sha256(f"{size} ".encode() + b"".join(pieces)).hexdigest()

    def _kept(self) -> dict[str, str]:
        try:
            kept = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        if not isinstance(kept, dict):
            return {}
        return {key: digest for key, digest in kept.items() if isinstance(digest, str)}

    def _keep(self, digests: dict[str, str]) -> None:
        draft = self._file.with_suffix(f".{secrets.token_hex(4)}.tmp")
        try:
            self._file.parent.mkdir(0o700, parents=True, exist_ok=True)
            draft.write_text(json.dumps(digests))
            draft.replace(self._file)
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            log.warning("digests of weights cannot be kept, so each start reads them: %s", error)


def _piece(number: int, begin: int) -> bytes:
    """The digest of up to `PIECE` bytes of an open file."""
    digest = hashlib.sha256()
    for place in range(begin, begin + PIECE, CHUNK):
        if not (data := os.pread(number, CHUNK, place)):
            break
        digest.update(data)
    return digest.digest()
