"""When a stream says that it is still there, on a clock that jumps to whatever is next."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from unittest.mock import AsyncMock, create_autospec

from aiohttp.abc import AbstractStreamWriter
from aiohttp.test_utils import make_mocked_request

from budmlx.config import Config
from budmlx.server.answer import EventStream
from budmlx.server.limits import DEFAULTS

HOLD = 2.0
PAUSE = 10.0
OPENING = b"data: {}\n\n"
PING = b": ping\n\n"


class JumpingLoop(asyncio.SelectorEventLoop):
    """Wherever it would wait, its time is later at once."""

    def __init__(self) -> None:
        super().__init__(JumpingSelector(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: JumpingLoop):
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen"
            self._loop.now += timeout
        return ready


class Encoder:
    headers: Mapping[str, str] = {}
    stream_type = "text/event-stream"

    def opening(self) -> bytes:
        return OPENING

    def keep_alive(self) -> bytes:
        return PING


def written(work: Callable[[EventStream], Awaitable[None]]) -> list[tuple[float, bytes]]:
    """What a stream writes while `work` goes on, and when."""
    loop = JumpingLoop()
    said: list[tuple[float, bytes]] = []
    writer = create_autospec(AbstractStreamWriter, instance=True)
    writer.write = AsyncMock(side_effect=lambda data: said.append((round(loop.now, 3), data)))
    config = Config(hold_seconds=HOLD, keepalive_seconds=PAUSE)

    async def stream() -> None:
        request = make_mocked_request("POST", "/", writer=writer, loop=loop)
        async with EventStream(request, Encoder(), config, DEFAULTS) as events:
            await work(events)

    try:
        loop.run_until_complete(stream())
    finally:
        loop.close()
    return said


def test_after_the_hold_a_silent_stream_pings_at_every_pause() -> None:
    async def silent(events: EventStream) -> None:
        await asyncio.sleep(HOLD + 3 * PAUSE + 1)

    assert written(silent) == [
        (HOLD, OPENING),
        *((HOLD + number * PAUSE, PING) for number in (1, 2, 3)),
    ]


def test_an_event_puts_the_next_ping_off() -> None:
    async def work(events: EventStream) -> None:
        await asyncio.sleep(1)
        await events.start()
        await events.send(b"data: 1\n\n")
        await asyncio.sleep(7)
        await events.send(b"data: 2\n\n")
        await asyncio.sleep(PAUSE + 5)
        await events.send(b"data: [DONE]\n\n")

    assert written(work) == [
        (1, OPENING),
        (1, b"data: 1\n\n"),
        (8, b"data: 2\n\n"),
        (8 + PAUSE, PING),
        (13 + PAUSE, b"data: [DONE]\n\n"),
    ]
