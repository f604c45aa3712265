"""What a loaded server promises, measured over HTTP (make limits)."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.measured import Measured
from tests.server.test_images import data_url, encoded
from tests.soak.traffic import Told, greedy, health, p99, session, told
from tests.soak.world import EYES, KEY, TEXT, World
from tests.vision_plugin import picture

pytestmark = [pytest.mark.limits, pytest.mark.timeout(900)]
LONG = 250
"""Tokens of a stream that lasts while others come."""
PROMPTS = ("Hello", "What?", "the quick brown fox " * 10)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("load")
    world = World(directory, preload=(TEXT, EYES), rows=64, queue=256)
    try:
        yield world
        assert world.stop() == 0
        assert "Traceback" not in (directory / "log").read_text()
    finally:
        world.close()


async def expected(world: World, tokens: int = 24) -> list[str]:
    """What the prompts get when they are alone."""
    async with session(world) as client:
        return [(await told(client, greedy(prompt, tokens))).text for prompt in PROMPTS]


async def test_two_hundred_streams(world: World, measured: Measured) -> None:  # LIMITS L2
    alone = await expected(world, LONG)
    async with session(world) as client:

        async def one(number: int) -> Told:
            return await told(client, greedy(PROMPTS[number % 3], LONG))

        with health(world) as took:
            found: list[Told] = await asyncio.gather(*map(one, range(200)))
    right = sum(each.text == alone[number % 3] for number, each in enumerate(found))
    between = p99([gap for each in found for gap in each.gaps])
    measured(
        "L2",
        f"{right} of 200 right; between tokens p99 {1000 * between:.0f} ms; `/health` p99 "
        f"{p99(took):.0f} ms, at most {max(took):.0f} ms",
    )
    assert right == 200
    assert between <= 1 and p99(took) <= 200 and max(took) <= 500


async def test_storms_of_resets(world: World, measured: Measured) -> None:  # LIMITS L3
    [alone, *_] = await expected(world)
    slowest = 0.0
    for _ in range(10):
        raw = [await _opened(world, json.dumps(greedy("Hello", 4000)).encode()) for _ in range(50)]
        await asyncio.sleep(0.2)
        for _, writer in raw:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()
        begun = time.monotonic()
        await asyncio.to_thread(world.at_rest)
        slowest = max(slowest, time.monotonic() - begun)
        async with session(world) as client:
            assert (await told(client, greedy("Hello"))).text == alone
    measured("L3", f"0 rows left after {slowest:.1f} s at most; each next reply the same")
    assert slowest <= 2


async def _opened(world: World, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}"
    head += f"\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return reader, writer


async def test_a_thousand_at_once(world: World, measured: Measured) -> None:  # LIMITS L5
    async with session(world) as client:
        found = await asyncio.gather(
            *(told(client, greedy(PROMPTS[number % 3], 8)) for number in range(1000))
        )
    ends = Counter(each.how for each in found)
    measured("L5", f"{ends['complete']} complete, {ends['overloaded']} refused, 0 lost")
    assert ends.total() == 1000 and ends.keys() == {"complete", "overloaded"}
    await asyncio.to_thread(world.at_rest)


async def test_silent_connections(world: World, measured: Measured) -> None:  # LIMITS L9
    async def canary(client: Any) -> float:
        begun = time.monotonic()
        assert (await told(client, greedy("Hello", 4))).how == "complete"
        return time.monotonic() - begun

    async def silent(number: int) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        if number < 500:
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: local")
        else:
            writer.write(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: "
                f"Bearer {KEY}\r\nContent-Type: application/json\r\n"
                "Content-Length: 10\r\n\r\n{".encode()
            )
        begun = time.monotonic()
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        return time.monotonic() - begun

    async with session(world) as client:
        before = p99([await canary(client) for _ in range(100)])
        sockets = [asyncio.create_task(silent(number)) for number in range(600)]
        await asyncio.sleep(0.5)
        during = []
        while not all(each.done() for each in sockets):
            during.append(await canary(client))
    closed = max(each.result() for each in sockets)
    measured(
        "L9",
        f"600 closed after {closed:.1f} s at most; the canary's p99 {1000 * before:.0f} ms before, "
        f"{1000 * p99(during):.0f} ms meanwhile",
    )
    assert closed <= 20 and p99(during) < max(2 * before, 0.1)


WORK: dict[str, dict[str, Any]] = {
    "a prompt of 2 MiB": greedy("a b " * 2**19, 1),
    "a schema": greedy(
        "Hello",
        1,
        ignore_eos=False,
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "x",
                "schema": {
                    "type": "object",
                    "properties": {
                        f"p{n}": {"enum": [f"v{n}-{m}" for m in range(10)]} for n in range(90)
                    },
                },
            },
        },
    ),
    "a picture": {
        **greedy("", 1),
        "model": EYES,
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "image_url",
                        "image_url": {"url": data_url(encoded(picture(1, 1500, 1500)))},
                    }
                ],
            }
        ],
    },
}


async def test_the_event_loop_goes_on(world: World, measured: Measured) -> None:  # LIMITS L12
    told_of, worst = [], 0.0
    for name, body in WORK.items():
        async with session(world) as client:
            begun = time.monotonic()
            with health(world) as took:
                while time.monotonic() - begun < 3:
                    how = (await told(client, body)).how
                    assert how in ("complete", "context_length_exceeded"), (name, how)
        told_of.append(f"{name} p99 {p99(took):.0f} ms")
        worst = max(worst, p99(took))
    measured("L12", "`/health` during " + ", ".join(told_of))
    assert worst <= 50


async def test_sigterm_under_load(tmp_path: Path, measured: Measured) -> None:  # LIMITS L6
    world = World(tmp_path, preload=(TEXT,))
    try:
        async with session(world) as client:
            streams = [
                asyncio.create_task(told(client, greedy(PROMPTS[n % 3], 50 if n < 10 else 6000)))
                for n in range(20)
            ]
            await asyncio.sleep(0.7)
            begun = time.monotonic()
            world.process.send_signal(signal.SIGTERM)
            refused = await _refuses(world.port, begun)
            ends = Counter(each.how for each in await asyncio.gather(*streams))
            world.output += await asyncio.to_thread(lambda: world.process.communicate()[0])
        took = time.monotonic() - begun
    finally:
        world.close()
    measured(
        "L6",
        f"accepted nothing after {refused:.1f} s; {ends['complete']} streams complete, "
        f"{ends.total() - ends['complete']} told why not; status {world.process.returncode} after "
        f"{took:.1f} s",
    )
    assert world.process.returncode == 0 and took <= 15 and refused <= 1
    assert ends["complete"] >= 1 and ends.total() == 20
    assert not re.findall(r"\.tmp$", "\n".join(map(str, (tmp_path / "kv").rglob("*"))), re.M)


async def _refuses(port: int, begun: float) -> float:
    """Seconds until nothing is accepted."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return time.monotonic() - begun
        writer.close()
        await asyncio.sleep(0.01)
