"""Awake: a Mac does not fall asleep while requests are answered. Its display may."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Self

log = logging.getLogger(__name__)

LINGER_SECONDS = 5.0
"""How long a Mac is kept awake after the last request, so that few processes are started."""


class Awake:
    """Keeps the machine awake while it is told that there is work. Used on the event loop only.

    command: a program that keeps it awake as long as it runs.
    """

    def __init__(self, command: Sequence[str], linger: float = LINGER_SECONDS):
        self._command = command
        self._linger = linger
        self._process: subprocess.Popen[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of_this_machine(cls) -> Self | None:
        """What keeps this machine awake; None where nothing needs to, or can."""
        program = shutil.which("caffeinate") if sys.platform == "darwin" else None
        # It ends with this process, however that ends.
        return (program and cls([program, "-i", "-w", str(os.getpid())])) or None

    def __call__(self, busy: bool) -> None:
        """Work has begun, or has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not busy:
            self._timer = asyncio.get_running_loop().call_later(self._linger, self.close)
        elif self._process is None:
            try:
                self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
            except OSError as error:
                log.warning("The machine may fall asleep: %s.", error.strerror)

    def close(self) -> None:
        """Let it sleep. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        self._timer = self._process = None
