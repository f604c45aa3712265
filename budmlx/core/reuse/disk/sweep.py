"""Sweep of the directory of KV files: the size limit, and temporary files of dead processes."""

from __future__ import annotations

import fcntl
import re
import time
from contextlib import suppress
from pathlib import Path

from budmlx.core.reuse.disk.files import SUFFIX, TEMPORARY, no_follow

# Damaged files are put aside under this suffix.
BAD = ".bad"
# Only files of such names are touched: the directory may hold others.
FOLDER = re.compile(r".+-[0-9a-f]{16}")
FILE = re.compile(rf"[0-9a-f]{{64}}(\.[0-9a-f]{{8}}{TEMPORARY}|{SUFFIX}|{BAD})")
# Files are removed down to this share of the limit.
LOW_WATER = 0.95
# Locks tell whose temporary files are debris; where there are none, age does. Seconds.
DEBRIS_AGE = 3600.0


def sweep(directory: Path, limit: int) -> dict[Path, int]:
    """Remove debris, and beyond `limit` bytes the least recently used files.

    Returns all that is left, with its bytes. Other processes may do the same at the same time.
    """
    found: list[tuple[bool, int, int, Path]] = []
    for path in [file for folder in folders(directory) for file in files(folder)]:
        with suppress(OSError):
            if path.suffix == TEMPORARY and _is_debris(path):
                path.unlink()
                continue
            status = path.lstat()
            found.append((path.suffix != BAD, status.st_mtime_ns, status.st_size, path))
    left = {path: size for *_, size, path in found}
    total = sum(left.values())
    target = limit if total <= limit else int(LOW_WATER * limit)
    # Damaged files are removed first.
    for *_, path in sorted(found):
        if total <= target:
            break
        with suppress(OSError):
            path.unlink(missing_ok=True)
            total -= left.pop(path)
    return left


def folders(directory: Path) -> list[Path]:
    """The folders of all models; none if the directory cannot be read."""
    return [path for path in _inside(directory) if FOLDER.fullmatch(path.name)]


def files(folder: Path) -> list[Path]:
    """The files of a model; none if the folder cannot be read."""
    return [path for path in _inside(folder) if FILE.fullmatch(path.name)]


def _inside(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _is_debris(path: Path) -> bool:
    """Whether nobody writes this temporary file any more."""
    old = time.time() - path.lstat().st_mtime > DEBRIS_AGE
    try:
        with open(path, "rb", opener=no_follow) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return old
    return True
