"""Where updates from the core wait for the thread or coroutine that asked for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from budmlx.protocol import RowFailed, Token

if TYPE_CHECKING:
    from budmlx.engine.reply.generation import Generation

Update = Token | RowFailed
Delivery = tuple["Generation", Sequence[Update]]


class Mailbox(Protocol):
    """Where updates wait for the thread or coroutine that asked for them."""

    def put(self, delivery: Delivery) -> None:
        """Deliver updates. Called on the host's thread; never blocks."""


class ThreadMailbox:
    """A mailbox that a thread waits on; several generations may share it."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Delivery] = SimpleQueue()
        self.put = self._queue.put
        self.get = self._queue.get


class LoopMailbox:
    """A mailbox that a coroutine waits on; usable in the loop that constructed it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Delivery] = asyncio.Queue()
        self.get = self._queue.get

    def put(self, delivery: Delivery) -> None:
        """Deliver updates and wake the coroutine."""
        # RuntimeError: the caller's loop was closed under the request; nobody reads this.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, delivery)
