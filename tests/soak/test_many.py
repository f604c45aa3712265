"""Very many requests over HTTP: nothing is wrong, and nothing grows (make soak)."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.measured import Measured
from tests.soak.requests import drawn
from tests.soak.test_everything import REQUESTS
from tests.soak.traffic import Told, at_once, greedy, session, told
from tests.soak.world import KEY, TEXT, Figures, World

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600 + REQUESTS // 4)]
PROMPTS = ("Hello", "What?", "the quick brown fox " * 10)
AT_ONCE = 64
STEPS = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("many")
    world = World(directory, preload=(TEXT,), rows=64)
    try:
        yield world
        assert world.stop() == 0
        assert "Traceback" not in (directory / "log").read_text()
    finally:
        world.close()


async def test_requests_of_which_a_third_vanishes(world: World, measured: Measured) -> None:
    # LIMITS L1, L13
    async with session(world) as client:
        alone = [(await told(client, greedy(prompt))).text for prompt in PROMPTS]
    ends: Counter[str] = Counter()
    wrong = 0
    seen: list[Figures] = []
    begun = time.monotonic()

    async def one(number: int) -> Told:
        nonlocal wrong
        which = number % len(PROMPTS)
        found = await told(client, greedy(PROMPTS[which]), 3 if number % 10 < 3 else 0)
        ends[found.how] += 1
        wrong += found.how == "complete" and found.text != alone[which]
        return found

    for step in range(STEPS):
        async with session(world) as client:
            numbers = range(step * REQUESTS // STEPS, (step + 1) * REQUESTS // STEPS)
            await at_once([lambda n=n: one(n) for n in numbers], AT_ONCE)
        await asyncio.to_thread(world.at_rest)
        seen.append(world.figures())
    took = time.monotonic() - begun
    settled, last = seen[STEPS // 5], seen[-1]
    growth = last.rss[0] - settled.rss[0]
    slope = growth / (REQUESTS * (STEPS - 1 - STEPS // 5) / STEPS / 10_000)
    measured(
        "L1",
        f"{REQUESTS} requests in {took:.0f} s: {wrong} wrong, {ends['left']} vanished, 0 rows "
        f"left; the server grew by {growth:.1f} MiB, the core by "
        f"{last.rss[1] - settled.rss[1]:.1f}; files {last.files - settled.files:+}, "
        f"threads {last.threads - settled.threads:+}",
    )
    measured("L13", f"{slope:.1f} MiB per 10,000 requests, over {REQUESTS}")
    assert not wrong and ends.keys() == {"complete", "left"}
    assert growth <= 25 and last.rss[1] - settled.rss[1] <= 25
    assert abs(last.files - settled.files) <= 2 and abs(last.threads - settled.threads) <= 2
    assert REQUESTS < 100_000 or slope <= 1


async def test_a_core_that_is_killed_under_load(world: World, measured: Measured) -> None:
    # LIMITS L8
    kills = max(3, 20 * REQUESTS // 10_000)
    before, slowest = world.figures().rss[0], 0.0
    async with session(world) as client:
        alone = [(await told(client, greedy(prompt, 200))).text for prompt in PROMPTS]
        for kill in range(kills):
            streams = [
                asyncio.create_task(told(client, greedy(PROMPTS[n % 3], 200))) for n in range(9)
            ]
            await asyncio.sleep(0.3)
            world.kill_core(kill)
            begun = time.monotonic()
            await told(client, greedy("Hello", 1))
            slowest = max(slowest, time.monotonic() - begun)
            found = [await each for each in streams]
            assert [each.how for each in found] == ["complete"] * 9
            assert [each.text for each in found] == [alone[n % 3] for n in range(9)]
    await asyncio.to_thread(world.at_rest)
    growth = world.figures().rss[0] - before
    measured(
        "L8",
        f"{kills} kills, each stream complete and as ever; ready again after {slowest:.1f} s at "
        f"most; the server grew by {growth:.1f} MiB",
    )
    assert slowest <= 5 and growth <= 10


async def test_mutations(world: World, measured: Measured) -> None:  # LIMITS L10
    chance = random.Random(10)
    bodies, raw = 2 * REQUESTS, 5 * REQUESTS
    ends: Counter[int] = Counter()

    async def send(data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        with suppress(ConnectionError, TimeoutError):
            writer.write(data)
            # Some of them say that more would come, which never does.
            line = await asyncio.wait_for(reader.readline(), 1)
            ends[int(line.split()[1]) if line else 0] += 1
        writer.close()

    await at_once(
        [lambda: send(request_of(broken(body_of(chance), chance))) for _ in range(bodies)], 8
    )
    await at_once(
        [lambda: send(broken(request_of(body_of(chance)), chance)) for _ in range(raw)], 64
    )
    await asyncio.to_thread(world.at_rest)
    worst = {status: count for status, count in ends.items() if status >= 500 and status != 503}
    measured(
        "L10", f"{bodies} bodies and {raw} requests: {sum(worst.values())} undeclared 5xx, 0 ends"
    )
    assert not worst, worst
    assert ends[200] and ends[400]


def body_of(chance: random.Random) -> bytes:
    """A short request's body, or that of another path."""
    body = drawn(chance).body
    for name in ("max_tokens", "max_output_tokens", "n"):
        if name in body:
            body[name] = 1
    return json.dumps(body).encode()


def request_of(body: bytes) -> bytes:
    """A chat with that body, as it is on the wire."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}"
    head += f"\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


SNIPPETS = (b"\x00", b"\xff", b"{", b'"', b"[", b"null", b"-1", b"1e999", b"\\ud800", b"\r\n", b":")


def broken(data: bytes, chance: random.Random) -> bytes:
    """Bytes of which some are gone, doubled, or others."""
    for _ in range(chance.choice([1, 1, 2, 5])):
        place = chance.randrange(len(data) + 1)
        end = min(len(data), place + chance.choice([0, 1, 1, 5, 40]))
        middle = chance.choice([b"", chance.choice(SNIPPETS), data[place:end] * 2])
        data = data[:place] + middle + data[end:]
    return data


async def test_different_prompts_with_full_caches(world: World, measured: Measured) -> None:
    # LIMITS L11
    prompts = REQUESTS // 2
    most_kept = most_stored = 0.0
    limit = 0.0
    for first in range(0, prompts, 250):
        numbers = range(first, min(prompts, first + 250))
        async with session(world) as client:
            await at_once(
                [lambda n=n: told(client, greedy(f"{n} " * 60, 2, cache=True)) for n in numbers], 32
            )
        numbers_now = await asyncio.to_thread(world.metrics)
        limit = numbers_now["budmlx_prefix_cache_limit_bytes"]
        most_kept = max(most_kept, numbers_now["budmlx_prefix_cache_bytes"] / limit)
        most_stored = max(most_stored, bytes_of(world.directory / "kv") / (24 * 2**20))
    measured(
        "L11",
        f"{prompts} prompts: {most_kept:.0%} of the limit in memory at most, {most_stored:.0%} on "
        "disk",
    )
    assert 0.3 < most_kept <= 1 and most_stored <= 1


def bytes_of(directory: Path) -> int:
    """Of all files."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
