"""Clients whose machine is gone without a word are cut off, and what they asked for ends."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from budmlx.server.app import HttpServer
from budmlx.server.limits import Limits
from tests.models import tiny_model_dir
from tests.server.conftest import Start
from tests.server.tools import get

ROOT = Path(__file__).parents[2]


def has_networks() -> bool:
    """Whether this user may have a network of its own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0


async def options_of(server: HttpServer) -> list[int]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(get("/health").replace(b"close", b"keep-alive"))
    await reader.readuntil(b"ok")
    assert server._runner.server is not None
    (connection,) = server._runner.server.connections
    assert connection.transport is not None
    accepted = connection.transport.get_extra_info("socket")
    options = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
    if sys.platform == "darwin":
        options = ("TCP_KEEPALIVE", *options[1:3])
    found = [accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0]
    found += [accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, each)) for each in options]
    writer.close()
    return found


async def test_the_system_asks_whether_a_client_is_there(start: Start) -> None:  # LIMITS 136
    told = await options_of(await start())
    assert told[:4] == [True, 30, 10, 3] and told[4:] in ([], [60_000])
    assert (await options_of(await start(Limits(vanished_seconds=1.0))))[:3] == [True, 1, 1]


@pytest.mark.skipif(not has_networks(), reason="no network of its own without privileges")
def test_a_network_that_is_gone_costs_the_requests_of_nobody_else() -> None:  # LIMITS 136
    command = ["unshare", "-rn", sys.executable, "-m", "tests.server.vanish"]
    done = subprocess.run(
        [*command, str(tiny_model_dir(scale=2.0)), "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["before"], found["then"]) == (3, 200), found
