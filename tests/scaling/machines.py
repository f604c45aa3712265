"""Servers behind a balancer, which tests kill and start."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

from bench.fronts import free_ports, program
from tests import server_process
from tests.clients.server import missing

KEY, OTHER_KEY = "a-key", "another-key"
ROWS = 16
"""So many streams a server has begun at once, at most."""


def needed(name: str) -> str:
    """The path of a program; the test is skipped without it, or fails where all are required."""
    return program(name) or missing(f"{name} is not installed; it is a package of Debian")


class Servers:
    """Servers by their tags, each with a directory of its own, which may be killed and started."""

    def __init__(self, directory: Path, tags: str = "ab"):
        self.directory = directory
        self.ports = dict(zip(tags, free_ports(len(tags)), strict=True))
        self._running: dict[str, tuple[ExitStack, subprocess.Popen[str]]] = {}

    def start(self, tag: str) -> None:
        environment = {name: value for name, value in os.environ.items() if "BUDMLX_" not in name}
        environment |= {
            "XDG_STATE_HOME": str(self.directory / tag),
            "BUDMLX_API_KEYS": f"{KEY},{OTHER_KEY}",
            "BUDMLX_DEVICE": "cpu",
        }
        stack = ExitStack()
        _, process = stack.enter_context(
            server_process.started(
                *("--demo", "--port", str(self.ports[tag]), "--server-tag", tag),
                *("--seal-key", str(self.directory / "seal.key"), "--files-dir", "auto"),
                # A stream that has not begun may go elsewhere: none begins before its first token.
                *("--hold-seconds", "100", "--drain-seconds", "60", "--max-rows", str(ROWS)),
                environment=environment,
            )
        )
        self._running[tag] = stack, process

    def end(self, tag: str, *, kill: bool = False) -> None:
        """Send a server SIGTERM, or SIGKILL, and do not wait for it."""
        _, process = self._running[tag]
        (process.kill if kill else process.terminate)()

    def wait(self, tag: str) -> None:
        """Wait for the end of a server that was told to."""
        stack, _ = self._running.pop(tag)
        stack.close()

    def close(self) -> None:
        for tag in list(self._running):
            self.wait(tag)
