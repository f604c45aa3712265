"""Changes of a file of API keys: a record comes or goes, everything else stays as it is."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from budmlx.config.keys import ApiKey, check_name, is_record, line_of, parsed, text_of
from budmlx.errors import ConfigError

KEY_BYTES = 32
PREFIX = "sk-bud-"
"""Some clients take only keys that begin with `sk-`."""


def new_key() -> str:
    """A key that nobody can guess."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def add_record(path: Path, record: ApiKey) -> None:
    """Add a record to a file, which is made if need be, for its owner alone.

    Raises:
        ConfigError: the name is taken or cannot be used, or the file cannot.
    """
    check_name(record.name)
    with _changing(path) as file:
        text = text_of(file) if file.exists() else ""
        if record.name in {each.name for each in parsed(text).records}:
            raise ConfigError(f"{record.name} has a key already; revoke it or choose another name.")
        if text and not text.endswith("\n"):
            text += "\n"
        _write(file, f"{text}{line_of(record)}\n")


def remove_record(path: Path, name: str) -> None:
    """Remove the record of a name. Raises ConfigError: there is none, or the file is unusable."""
    with _changing(path) as file:
        text = text_of(file)
        if name not in {each.name for each in parsed(text).records}:
            raise ConfigError(f"{path} has no key of the name {name[:100]!r}.")
        lines = text.split("\n")
        _write(file, "\n".join(line for line in lines if not _is_of(line.strip(), name)))


def _is_of(line: str, name: str) -> bool:
    return is_record(line) and parsed(line).records[0].name == name


@contextmanager
def _changing(path: Path) -> Iterator[Path]:
    """The file itself, while no other process changes it."""
    file = path.expanduser().resolve()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(file.with_name(f".{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(lock)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error


def _write(file: Path, text: str) -> None:
    """Replace a file in one go, so that a server never reads half of it."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as target:
        target.write(text)
        target.flush()
        os.fsync(target.fileno())
    new.replace(file)
