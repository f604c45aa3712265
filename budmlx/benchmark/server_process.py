"""Server process: a server to be measured, in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from budmlx.errors import BudmlxError

POLL_SECONDS = 0.1
STOP_SECONDS = 15.0
TAIL_LINES = 20
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class SpawnError(BudmlxError):
    """A server did not start. The message ends with the last lines of its log."""


class ServerProcess:
    """A running chat-completions server on a free port; a context manager that stops it.

    command: the one that starts it, without the port, which is appended as `--port N`.
    log: file that takes what the server prints. headers: sent with every request. apart: what is
    typed in the terminal, such as Ctrl-C, does not reach it.

    Raises:
        SpawnError: it ended, or did not answer a request in time.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        model: str | None = None,
        environment: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 600.0,
        apart: bool = False,
    ):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._headers = dict(headers or {})
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=apart,
            )
        try:
            self.model = self._wait(model, time.monotonic() + timeout)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        return self._process.pid

    def log_tail(self) -> str:
        """The last lines that the server printed."""
        lines = self._log.read_text("utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def stop(self) -> None:
        """Terminate the server, and kill it if it does not end. Idempotent."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self, model: str | None, deadline: float) -> str:
        """Wait for an answer to a real request; the model's name."""
        while True:
            if not self.alive:
                raise SpawnError(f"The server ended at its start:\n{self.log_tail()}")
            try:
                name = model or first_model(self.url, self._headers)
                ask(self.url, name, self._headers, deadline - time.monotonic())
                return name
            except (OSError, ValueError, LookupError) as error:
                if time.monotonic() > deadline:
                    raise SpawnError(
                        f"The server does not answer ({error}):\n{self.log_tail()}"
                    ) from error
            time.sleep(POLL_SECONDS)


def first_model(url: str, headers: Mapping[str, str]) -> str:
    """The name of the first model that a server lists. Raises OSError, Value- or LookupError."""
    request = urllib.request.Request(f"{url}/v1/models", headers=dict(headers))
    with NO_PROXY.open(request, timeout=10) as response:
        return str(json.load(response)["data"][0]["id"])


def ask(url: str, model: str, headers: Mapping[str, str], timeout: float) -> None:
    """Request one token. Raises OSError when the server does not answer well."""
    message = {"role": "user", "content": "Are you there?"}
    body = json.dumps({"model": model, "max_tokens": 1, "messages": [message]}).encode()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", body, {**headers, "Content-Type": "application/json"}
    )
    with NO_PROXY.open(request, timeout=max(timeout, 0.1)) as response:
        response.read()


def free_port() -> int:
    """A port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
