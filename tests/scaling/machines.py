"""Two servers and what stands in front of them: processes with the files of docs/scaling."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import server_process
from tests.clients.server import missing
from tests.docs.pages import DOCS

KEY, OTHER_KEY = "a-key", "another-key"
SECONDS = 60
ROWS = 16
"""So many streams a server has begun at once, at most."""
FILES = DOCS / "scaling"
PROGRAMS = {"nginx": "/usr/sbin/nginx", "haproxy": "/usr/sbin/haproxy", "prometheus": ""}
"""Where Debian has them, outside of the PATH of most users."""

NGINX = """
daemon off;
pid {path}/pid;
error_log {path}/errors;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {path}/bodies;
    proxy_temp_path {path}/proxy;
    fastcgi_temp_path {path}/fastcgi;
    uwsgi_temp_path {path}/uwsgi;
    scgi_temp_path {path}/scgi;
    include {path}/budmlx.conf;
}}
"""
"""Stands for what Debian's nginx.conf is to a user's."""


def program(name: str) -> str:
    """The path of a program; the test is skipped without it, or fails where all are required."""
    found = shutil.which(name) or shutil.which(PROGRAMS[name])
    return found or missing(f"{name} is not installed; it is a package of Debian")


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


@dataclass(frozen=True, slots=True)
class Balancer:
    """What stands in front of servers. url: with an address of loopback. numbers: its own port."""

    name: str
    url: str
    numbers: int


@contextmanager
def balanced(name: str, servers: Servers, directory: Path) -> Iterator[Balancer]:
    """nginx or HAProxy in front of servers, as docs/scaling has it."""
    directory.mkdir()
    port, numbers = free_ports(2)
    replaced = {
        "127.0.0.1:8081": f"127.0.0.1:{servers.ports['a']}",
        "127.0.0.1:8082": f"127.0.0.1:{servers.ports['b']}",
        "listen 8080;": f"listen 127.0.0.1:{port};",
        "bind :8080": f"bind 127.0.0.1:{port}",
        "127.0.0.1:8405": f"127.0.0.1:{numbers}",
        "/run/haproxy": str(directory),
    }
    if name == "nginx":
        settle(FILES / "nginx.conf", directory / "budmlx.conf", replaced)
        (directory / "nginx.conf").write_text(NGINX.format(path=directory))
        command = [program(name), "-p", str(directory), "-c", str(directory / "nginx.conf")]
    else:
        settle(FILES / "haproxy.cfg", directory / "haproxy.cfg", replaced)
        command = [program(name), "-db", "-f", str(directory / "haproxy.cfg")]
    with running(command, directory / "log"):
        url = f"http://127.0.0.1:{port}"
        until_ready(url)
        yield Balancer(name, url, numbers)


def settle(source: Path, target: Path, replaced: Mapping[str, str]) -> None:
    """Copy a file with the addresses of a test."""
    text = source.read_text("utf-8")
    for old, new in replaced.items():
        text = text.replace(old, new)
    target.write_text(text)


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until_ready(url: str) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, f"{url} is not ready"
            time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports of loopback on which nothing listens, below those that clients get."""
    found: list[int] = []
    begin = 20_000 + os.getpid() % 500 * 16
    for port in range(begin, begin + 12_000):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
        if len(found) == count:
            return found
    sys.exit("no port is free")
