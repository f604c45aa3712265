"""Fronts: nginx and HAProxy with the files of docs/scaling, for tests and measurements."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60
FILES = Path(__file__).parent.parent / "docs" / "scaling"

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


def program(name: str) -> str | None:
    """The path of a program, also where Debian has it outside of the PATH of most users."""
    return shutil.which(name) or shutil.which(f"/usr/sbin/{name}")


@dataclass(frozen=True, slots=True)
class Balancer:
    """What stands in front of servers. url: with an address of loopback. numbers: its own port."""

    name: str
    url: str
    numbers: int


@contextmanager
def balanced(name: str, a: int, b: int, directory: Path) -> Iterator[Balancer]:
    """nginx or HAProxy in front of servers of loopback, as docs/scaling has it.

    a, b: their ports. directory: which is made, for its files.
    """
    command = program(name)
    assert command is not None
    directory.mkdir()
    port, numbers = free_ports(2)
    replaced = {
        "127.0.0.1:8081": f"127.0.0.1:{a}",
        "127.0.0.1:8082": f"127.0.0.1:{b}",
        "listen 8080;": f"listen 127.0.0.1:{port};",
        "bind :8080": f"bind 127.0.0.1:{port}",
        "127.0.0.1:8405": f"127.0.0.1:{numbers}",
        "/run/haproxy": str(directory),
    }
    if name == "nginx":
        settle(FILES / "nginx.conf", directory / "budmlx.conf", replaced)
        (directory / "nginx.conf").write_text(NGINX.format(path=directory))
        arguments = ["-p", str(directory), "-c", str(directory / "nginx.conf")]
    else:
        settle(FILES / "haproxy.cfg", directory / "haproxy.cfg", replaced)
        arguments = ["-db", "-f", str(directory / "haproxy.cfg")]
    with running([command, *arguments], directory / "log"):
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
    """A process that ends with the block. log: takes what it prints."""
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
    """Wait until a server, or one behind a balancer, is ready."""
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
    # Others look for ports at the same time.
    begin = random.randrange(12_000, 30_000)
    for port in range(begin, begin + 2_000):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no port is free")
