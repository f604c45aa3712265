"""What clients see while the model is loaded, and how `budmlx serve` starts meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from budmlx.config import Config
from budmlx.engine.engine import Engine
from budmlx.engine.models.models import Models
from budmlx.errors import ConfigError
from budmlx.server.app import HttpServer, create_loading_app
from budmlx.server.listening import listen
from budmlx.server.loading import LoadingServer
from tests.models import tiny_model_dir
from tests.server.tools import body, check_error, exchange, get, post

CHAT_REQUEST = post(json.dumps(body()).encode())

SLOW = """
import sys, time
from budmlx.cli import main
from budmlx.engine.models.models import Models

def slow(self, name, notice):
    print("loading", flush=True)
    time.sleep(600)

Models.load = slow
sys.argv[:1] = ["budmlx", "serve"]
main()
"""


async def test_signs_of_life_and_nothing_else() -> None:
    config = Config(port=0)
    with listen(config) as listening, LoadingServer(listening, create_loading_app(config)):
        assert (await exchange(listening, get("/health"))).json["status"] == "ok"
        assert (await exchange(listening, get("/v1/tcp_warming"))).status == 200
        for raw in (get("/ready"), CHAT_REQUEST, get("/v1/models"), get("/no/such")):
            answer = await exchange(listening, raw)
            assert "is being loaded" in check_error(answer, 503)["message"]
            assert answer.headers["Retry-After"].isdigit()
        assert (await exchange(listening, get("/ready", Host="evil.example"))).status == 403
    with pytest.raises(ConnectionRefusedError):
        await exchange(listening, get("/health"))


async def test_keys_are_checked_meanwhile() -> None:  # LIMITS 30
    config = Config.of(port=0, api_keys="k")
    with listen(config) as listening, LoadingServer(listening, create_loading_app(config)):
        check_error(await exchange(listening, CHAT_REQUEST), 401)
        check_error(await exchange(listening, get("/ready")), 503)
        with_key = post(json.dumps(body()).encode(), Authorization="Bearer k")
        check_error(await exchange(listening, with_key), 503)


async def test_no_connection_is_refused_between_loading_and_serving(engine: Engine) -> None:
    config = Config(port=0, drain_seconds=0)
    listening = listen(config)
    with LoadingServer(listening, create_loading_app(config)):
        idle = await asyncio.open_connection("127.0.0.1", listening.port)
    early = asyncio.create_task(exchange(listening, CHAT_REQUEST))
    await asyncio.sleep(0.05)
    server = await HttpServer.start(Models.of(engine, ("demo",)), config, listening=listening)
    assert (await early).status == 200
    assert await idle[0].read() == b""
    idle[1].close()
    await server.drain()
    with pytest.raises(ConnectionRefusedError):
        await exchange(listening, get("/health"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_an_address_is_taken_once(host: str) -> None:
    with listen(Config(host=host, port=0)) as taken:
        for each in taken.sockets:
            config = Config(host=each.getsockname()[0], port=each.getsockname()[1])
            with pytest.raises(ConfigError, match=r"in use.*--port"):
                listen(config)
    listen(Config(host=host, port=taken.port)).close()


Start = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts `budmlx serve`, which loads for ever, as a process."""
    processes: list[asyncio.subprocess.Process] = []

    async def start(port: int) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SLOW, str(tiny_model_dir(scale=2.0)), "--port", str(port)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def test_the_port_is_taken_and_ctrl_c_works_while_the_model_is_loaded(start: Start) -> None:
    port = free_port()
    first = await start(port)
    assert await line(first) == "loading"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get("/ready"))
    assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
    writer.close()
    second = await start(port)
    said, complained = await second.communicate()
    assert (second.returncode, said) == (1, b""), "it loaded although the port is taken"
    assert complained.decode().splitlines()[-1].startswith(f"budmlx: 127.0.0.1:{port} is in use")
    first.send_signal(signal.SIGINT)
    said, complained = await first.communicate()
    assert (first.returncode, said) == (130, b"")
    assert b"Traceback" not in complained
