"""Connections that vanish, overload, draining, signals, binding."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import aiohttp
import psutil
import pytest

from budmlx import Engine
from budmlx.errors import ConfigError
from budmlx.server import listening
from budmlx.server.app import HttpServer
from budmlx.server.limits import Limits
from tests.amount import usually
from tests.models import tiny_model_dir
from tests.server.conftest import Start
from tests.server.tools import (
    CHAT,
    body,
    check_error,
    endless,
    events,
    exchange,
    get,
    parse,
    post,
    until,
)


def idle(engine: Engine) -> bool:
    status = engine.status()
    return status.running == status.waiting == 0


@pytest.fixture(autouse=True)
async def nothing_is_left_running(engine: Engine) -> AsyncIterator[None]:
    yield
    await until(lambda: idle(engine))


# LIMITS 89 and 91
@pytest.mark.parametrize("farewell", ["fin", "rst", "half-close"])
@pytest.mark.parametrize(
    ("stream", "moment"),
    [
        (False, "at once"),
        (False, "running"),
        (True, "at once"),
        (True, "running"),
        (True, "first byte"),
    ],
)
async def test_a_vanished_client_frees_its_row(
    engine: Engine, server: HttpServer, stream: bool, farewell: str, moment: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post(json.dumps(endless(stream=stream)).encode()))
    if moment == "first byte":
        await reader.readuntil(b"data: ")
    elif moment == "running":
        await until(lambda: engine.status().running == 1)
    if farewell == "half-close":
        writer.write_eof()
    else:
        if farewell == "rst":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()
    await until(lambda: idle(engine) and server.in_flight.count == 0)
    writer.close()
    answer = await exchange(server, post(json.dumps(body()).encode()))
    assert answer.status == 200


async def test_a_client_that_vanishes_while_its_prompt_is_tokenized(
    engine: Engine, server: HttpServer
) -> None:  # LIMITS 90
    prompt = "the quick brown fox jumps over the lazy dog " * 500
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor()
    loop.set_default_executor(threads)
    for _ in range(5):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(json.dumps(endless(content=prompt)).encode()))
        await until(lambda: server.in_flight.count == 1)
        writer.close()
        await until(lambda: server.in_flight.count == 0)
    threads.shutdown()
    loop.set_default_executor(ThreadPoolExecutor())
    engine.chat("Hello", max_tokens=1)
    await until(lambda: idle(engine))


async def test_more_requests_than_places(engine: Engine, start: Start) -> None:
    server = await start(max_rows=1, max_queue=1)
    async with aiohttp.ClientSession(server.url) as client:
        responses = [await client.post(CHAT, json=endless(stream=True)) for _ in range(2)]
        answer = await exchange(server, post(json.dumps(body()).encode()))
        check_error(answer, 503, code="overloaded")
        assert answer.headers["Retry-After"].isdigit()
        for response in responses:
            response.close()
    await until(lambda: server.in_flight.count == 0)
    assert (await exchange(server, post(json.dumps(body()).encode()))).status == 200


async def test_every_request_of_a_burst_gets_one_outcome(start: Start) -> None:  # LIMITS L5
    server = await start(max_rows=4, max_queue=4)  # LIMITS 95
    raw = post(json.dumps(body()).encode())
    answers = await asyncio.gather(*(exchange(server, raw) for _ in range(100)))
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 8
    assert len({a.content for a in answers if a.status == 503}) == 1


# LIMITS L2, L3
async def test_200_streams_of_which_a_third_vanishes(engine: Engine, start: Start) -> None:
    server = await start()
    threads = threading.active_count()
    prompts = ["Hello", "What?", "the quick brown fox " * 10]
    expected = [engine.chat(prompt, temperature=0, max_tokens=24).text for prompt in prompts]

    async def talk(number: int) -> tuple[str, str] | None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        request = body(prompts[number % 3], stream=True, max_tokens=24)
        writer.write(post(json.dumps(request).encode()))
        try:
            if number % 10 < 3:
                await reader.readuntil(b'"content":')
                return None
            chunks = events(parse(await reader.read(), "POST").content)
        finally:
            writer.close()
            await writer.wait_closed()
        assert chunks.pop() == "[DONE]"
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        return text, expected[number % 3]

    results = [pair for pair in await asyncio.gather(*map(talk, range(200))) if pair]
    assert len(results) == 140
    assert all(text == wanted for text, wanted in results)
    await until(lambda: idle(engine) and server.connections == 0, seconds=2)
    assert threading.active_count() <= threads


async def test_drain_lets_replies_finish(start: Start) -> None:
    server = await start(drain_seconds=60)
    async with aiohttp.ClientSession(server.url) as client:
        idle_connection = await asyncio.open_connection("127.0.0.1", server.port)
        response = await client.post(CHAT, json=body(stream=True, max_tokens=400))
        received = await response.content.readuntil(b"\n\n")
        drain = asyncio.create_task(server.drain())
        await until(lambda: server.in_flight.draining)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        reader, writer = idle_connection
        writer.write(get("/ready").replace(b"Connection: close\r\n", b""))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ") and b"Connection: close" in head
        assert b"shutting down" in await reader.read()
        writer.close()
        received += await response.content.read()
        await drain
    assert events(received)[-1] == "[DONE]"


async def test_drain_ends_replies_that_take_too_long(engine: Engine, start: Start) -> None:
    server = await start(drain_seconds=0.1)
    async with aiohttp.ClientSession(server.url) as client:
        stream = await client.post(CHAT, json=endless(stream=True))
        whole = asyncio.create_task(client.post(CHAT, json=endless()))
        await until(lambda: server.in_flight.count == 2)
        await server.drain()
        *_, last = events(await stream.content.read())
        assert last["status_code"] == 503
        assert "shutting down" in last["error"]["message"]
        response = await whole
        assert response.status == 503
        assert response.headers["Retry-After"].isdigit()
        assert "shutting down" in (await response.json())["message"]


CONNECTING = """
import socket, sys
there = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(40)]
print("connected", flush=True)
there[-1].sendall(b"GET /health HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n")
print(there[-1].recv(12).decode(), flush=True)
"""


async def test_without_open_files_connections_wait(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:  # LIMITS 26
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(listening.tell_of_open_files())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CONNECTING, str(server.port)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 5, hard))
    try:
        assert await process.stdout.readline() == b"connected\n"
        await asyncio.sleep(1.5)  # asyncio tries again each second
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert await process.stdout.readline() == b"HTTP/1.0 200\n"
    assert await process.wait() == 0
    assert caplog.text.count("too many files are open") == 1 and "Traceback" not in caplog.text


async def test_a_taken_port(server: HttpServer, start: Start) -> None:  # LIMITS 27
    with pytest.raises(ConfigError, match=r"in use.*--port") as caught:
        await start(port=server.port)
    assert "\n" not in caught.value.message


async def test_a_port_that_somebody_answers_is_taken_where_it_could_be_bound(
    server: HttpServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "SHARES_PORTS", True)
    with pytest.raises(ConfigError, match=r"in use.*--port") as caught:
        await start(port=server.port)
    assert caught.value.__cause__ is None, "the bind failed, not the look before it"
    await server.drain()
    await start(port=server.port)


async def test_the_url_of_a_wildcard_works_here(start: Start) -> None:
    server = await start(host="0.0.0.0", api_keys=("k",))
    assert server.url == f"http://127.0.0.1:{server.port}"
    async with aiohttp.ClientSession(server.url) as client, client.get("/health") as response:
        assert response.status == 200


async def test_port_0_reports_the_real_port(server: HttpServer) -> None:
    assert server.port > 0
    assert server.url == f"http://127.0.0.1:{server.port}"


async def test_silent_connections_are_closed(start: Start) -> None:
    server = await start(Limits(first_request_seconds=0.1))  # LIMITS 1 and 2
    for start_of_request in (b"", b"GET /health HTTP/1.1\r\nHost: local"):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(start_of_request)
        assert await reader.read() == b""
        writer.close()
    async with aiohttp.ClientSession(server.url) as client:
        request = body(max_tokens=300, stream=True)
        async with client.post(CHAT, json=request) as response:
            assert events(await response.read())[-1] == "[DONE]"


async def test_too_many_connections(start: Start) -> None:
    server = await start(Limits(max_connections=2))  # LIMITS 25
    kept = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
    for reader, writer in kept:
        writer.write(get("/health").replace(b"Connection: close\r\n", b""))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(get("/health"))
    with suppress(ConnectionResetError):
        assert await reader.read() == b""
    kept[0][1].write(get("/health"))
    assert b"200 OK" in await kept[0][0].read()
    for each in (writer, kept[0][1], kept[1][1]):
        each.close()
        with suppress(ConnectionResetError):
            await each.wait_closed()


SERVE = """
import asyncio, sys
from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import serve

with Engine.load(sys.argv[1]) as engine:
    config = Config(port=0, drain_seconds=float(sys.argv[2]))
    announce = lambda url: print(url, flush=True)
    asyncio.run(serve(Models.of(engine, ["demo"]), config, announce))
print("closed", flush=True)
"""


Serve = Callable[..., Awaitable[tuple[asyncio.subprocess.Process, str]]]


@pytest.fixture
async def served() -> AsyncIterator[Serve]:
    """Starts servers as processes, which end with the test."""
    processes: list[asyncio.subprocess.Process] = []

    async def serve(drain_seconds: float, *wrapper: str) -> tuple[asyncio.subprocess.Process, str]:
        process = await asyncio.create_subprocess_exec(
            *(*wrapper, sys.executable, "-c", SERVE),
            *(str(tiny_model_dir(scale=2.0)), str(drain_seconds)),
            stdout=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        assert process.stdout is not None
        return process, (await process.stdout.readline()).decode().strip()

    yield serve
    for process in processes:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


# LIMITS L6
@pytest.mark.parametrize("number", usually(signal.SIGTERM.__eq__, SIGNALS))
async def test_a_signal_drains(served: Serve, number: signal.Signals) -> None:  # LIMITS 119
    process, url = await served(drain_seconds=0.2)
    async with aiohttp.ClientSession(url) as client:
        response = await client.post(CHAT, json=endless(stream=True))
        process.send_signal(number)
        assert events(await response.content.read())[-1]["status_code"] == 503
    output, _ = await process.communicate()
    assert (process.returncode, output) == (0, b"closed\n")


@pytest.mark.parametrize("number", usually(signal.SIGINT.__eq__, SIGNALS))
async def test_a_second_signal_ends_the_process_at_once(
    served: Serve, number: signal.Signals
) -> None:
    process, url = await served(drain_seconds=600)
    async with aiohttp.ClientSession(url) as client:
        response = await client.post(CHAT, json=endless(stream=True))
        process.send_signal(number)
        port = int(url.rpartition(":")[2])
        await until(lambda: not is_answered(port))
        process.send_signal(number)
        if number == signal.SIGHUP:  # A terminal that closes sends it twice.
            process.send_signal(number := signal.SIGTERM)
        assert await process.wait() == -number
        response.close()


async def test_nohup_is_respected(served: Serve) -> None:
    process, url = await served(0, "nohup")
    port = int(url.rpartition(":")[2])
    process.send_signal(signal.SIGHUP)
    await asyncio.sleep(0.2)
    assert is_answered(port)
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


def is_answered(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
