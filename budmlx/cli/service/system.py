"""System: what all managers of services do: write a file, call a program, say what failed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from budmlx.cli.service.job import Job
from budmlx.errors import BudmlxError

NAME = "budmlx"


class Manager(Protocol):
    """The system's manager of services. All methods raise BudmlxError."""

    @property
    def path(self) -> Path:
        """The file of the service."""

    def install(self, job: Job) -> None:
        """Start the service now, and whenever the system or the user's session does."""

    def uninstall(self) -> None:
        """Stop it, and forget it."""

    def restart(self) -> None:
        """Stop it and start it again."""

    def status(self) -> str:
        """What the system says of it."""

    def logs(self, lines: int, *, follow: bool) -> Sequence[str]:
        """The command that shows its log."""


def write(path: Path, data: bytes) -> None:
    """Write a file that its owner alone may read, in one go. Raises BudmlxError."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        new.replace(path)
    except OSError as error:
        raise BudmlxError(f"{path} cannot be written: {error.strerror}.") from error


def remove(path: Path) -> None:
    """Remove a file. Raises BudmlxError."""
    try:
        path.unlink()
    except FileNotFoundError:
        raise BudmlxError("There is no service; make one with: budmlx service install.") from None
    except OSError as error:
        raise BudmlxError(f"{path} cannot be removed: {error.strerror}.") from error


def call(*words: str, fails: bool = True) -> str:
    """What a program says. fails: raise BudmlxError if its exit status is not 0."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BudmlxError(f"{words[0]} cannot be run: {error.strerror}.") from error
    said = (done.stdout + done.stderr).strip()
    if done.returncode and fails:
        raise BudmlxError(f"{' '.join(words)} failed: {said or done.returncode}")
    return said
