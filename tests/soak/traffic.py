"""Many connections to a world at once, in one event loop."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.soak.endings import ending
from tests.soak.world import KEY, TEXT, Reply, World

CHAT = "/v1/chat/completions"


@dataclass
class Told:
    """A reply. how: it ended, or "left". gaps: seconds between what came of it."""

    how: str
    text: str = ""
    gaps: list[float] = field(default_factory=list)


def session(world: World) -> aiohttp.ClientSession:
    """A client that may have any number of connections."""
    return aiohttp.ClientSession(
        f"http://127.0.0.1:{world.port}",
        headers={"Authorization": f"Bearer {KEY}"},
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=300),
    )


def greedy(prompt: str, tokens: int = 24, **more: Any) -> dict[str, Any]:
    """A streamed greedy chat."""
    messages = [{"role": "user", "content": prompt}]
    rules = {"temperature": 0, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    return {"model": TEXT, "messages": messages, **rules, **more}


async def told(client: aiohttp.ClientSession, body: Any, leave_after: int = 0) -> Told:
    """Ask, and read all, or so many parts."""
    begun, gaps, parts = time.monotonic(), [], []
    async with client.post(CHAT, json=body) as response:
        async for part in response.content.iter_any():
            now = time.monotonic()
            gaps.append(now - begun)
            begun = now
            parts.append(part)
            if leave_after and len(parts) >= leave_after:
                return Told("left")
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        reply = Reply(response.status, kind, b"".join(parts))
    how = ending(reply)
    return Told(how, text_of(reply) if how == "complete" else "", gaps[1:])


def text_of(reply: Reply) -> str:
    """The text of a streamed chat."""
    texts = []
    for line in reply.content.decode().split("\n"):
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                texts.append(choice["delta"].get("content") or "")
    return "".join(texts)


async def at_once(work: Sequence[Callable[[], Awaitable[Any]]], most: int) -> list[Any]:
    """What calls give, so many of which run at once."""
    places = asyncio.Semaphore(most)

    async def one(each: Callable[[], Awaitable[Any]]) -> Any:
        async with places:
            return await each()

    return await asyncio.gather(*map(one, work))


@contextmanager
def health(world: World) -> Iterator[list[float]]:
    """How long `/health` takes meanwhile, in milliseconds, asked by a thread of its own."""
    took: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            begun = time.monotonic()
            assert world.ask("/health").status == 200
            took.append(1000 * (time.monotonic() - begun))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield took
    finally:
        over.set()
        looking.join()


def p99(values: Sequence[float]) -> float:
    """The 99th percentile."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]
