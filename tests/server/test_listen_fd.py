"""Socket activation: the server takes a socket that somebody else has opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from budmlx.config import Config
from budmlx.errors import ConfigError
from budmlx.server.listening import listen
from tests.server_process import started


@pytest.fixture
def opened() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_who_came_before_the_server_is_answered(tmp_path: Path, opened: socket.socket) -> None:
    port = opened.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as early:
        early.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with started(
            "--demo",
            "--listen-fd",
            str(opened.fileno()),
            environment={"HOME": str(tmp_path), "BUDMLX_DEVICE": "cpu", "PATH": os.environ["PATH"]},
            files=(opened.fileno(),),
        ) as (url, _):
            assert url == f"http://127.0.0.1:{port}"
            assert early.recv(100).startswith(b"HTTP/1.1 200")


def test_its_address_is_known(opened: socket.socket) -> None:
    config = Config(listen_fd=os.dup(opened.fileno()), host="192.0.2.1", port=1)
    with listen(config) as listening:
        assert listening.port == opened.getsockname()[1]
        assert listening.url == f"http://127.0.0.1:{listening.port}"


def test_others_can_reach_it_with_keys_only() -> None:
    with (
        socket.create_server(("0.0.0.0", 0)) as opened,
        pytest.raises(ConfigError, match="API key"),
    ):
        listen(Config(listen_fd=os.dup(opened.fileno())))


def test_what_is_no_such_socket_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file, socket.socket() as silent:
        for number in (file.fileno(), silent.fileno(), 10_000):
            if number == silent.fileno():
                number = os.dup(number)
            with pytest.raises(ConfigError, match="listen_fd"):
                listen(Config(listen_fd=number))
