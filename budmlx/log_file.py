"""A file in place of the standard error stream, which is kept small.

Imports nothing of budmlx but errors. What processes that were started here write goes there, too.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from budmlx.errors import ConfigError

MOST_BYTES = 10 * 2**20
KEPT = 5
LOOK_SECONDS = 10.0


def take_over(path: Path) -> None:
    """Write what goes to the standard error stream to a file, from now on.

    Nothing is logged where the disk is full, until it is not and the server starts again.

    Raises:
        ConfigError: the file cannot be written.
    """
    path = path.expanduser().absolute()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            file = os.open(os.devnull, os.O_WRONLY)
            os.dup2(file, 2)
            os.close(file)
            return
        raise ConfigError(
            f"log_file: {path} cannot be written: {error.strerror}.", param="log_file"
        ) from error
    os.dup2(file, 2)
    os.close(file)
    threading.Thread(target=_watch, args=(path,), name="budmlx-log-file", daemon=True).start()


def rotate(path: Path, most: int = MOST_BYTES, kept: int = KEPT) -> None:
    """Begin a file anew if it has more than `most` bytes, and keep what it had as FILE.1.

    Whoever writes to it goes on doing so: it must have been opened for appending. A line that is
    written in that moment may be lost. Raises OSError.
    """
    if path.stat().st_size <= most:
        return
    for number in range(kept, 1, -1):
        older = _numbered(path, number - 1)
        if older.exists():
            older.replace(_numbered(path, number))
    shutil.copyfile(path, _numbered(path, 1))
    _numbered(path, 1).chmod(0o600)
    os.truncate(path, 0)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _watch(path: Path) -> None:
    while True:
        time.sleep(LOOK_SECONDS)
        with suppress(OSError):  # The disk is full, or the file is gone: there is nobody to tell.
            rotate(path)
