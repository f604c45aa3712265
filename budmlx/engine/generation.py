"""One request on its way: token ids from the core become events for the caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Protocol

from budmlx.engine.text import TextStream

from budmlx.errors import (
    BudmlxError,
    EngineUnavailableError,
    OverloadedError,
    RequestFailedError,
)
from budmlx.protocol import RowFailed, Token
from budmlx.types import Event, Finished, FinishReason, TextDelta, Timing, Usage

Update = Token | RowFailed
Delivery = tuple["Generation", Sequence[Update]]
ERRORS: dict[str, type[BudmlxError]] = {
    "overloaded": OverloadedError,
    "request_failed": RequestFailedError,
    "engine_unavailable": EngineUnavailableError,
}


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


class Generation:
    """The state of one row between the core and the caller.

    over: the terminal event is out. left_core: the core is done with the row.
    The host's thread only stamps times and fills the mailbox; text is made where the
    events are consumed, so that a slow reader delays nobody.
    """

    def __init__(self, row_id: int, prompt_tokens: int, text: TextStream, mailbox: Mailbox):
        self.id = row_id
        self.over = False
        self.left_core = False
        self._mailbox = mailbox
        self._prompt_tokens = prompt_tokens
        self._completion_tokens = 0
        self._text = text
        self._submitted = time.monotonic()
        self._started: float | None = None
        self._first: float | None = None
        self._last = self._submitted

    def stamp_start(self, now: float) -> None:
        """The core took the row out of its queue at `now`."""
        self._started = self._started or now

    def deliver(self, updates: Sequence[Update], now: float) -> None:
        """Take what a frame holds for this row. Called on the host's thread."""
        self._first = self._first or now
        self._last = now
        last = updates[-1]
        self.left_core = isinstance(last, RowFailed) or last.reason is not None
        self._mailbox.put((self, updates))

    def events(self, updates: Sequence[Update]) -> Iterator[Event]:
        """Events of these updates; sets `over` once the terminal one is out.

        Raises:
            BudmlxError: the row failed. This is its terminal event.
        """
        shown: list[str] = []
        finish: FinishReason | None = None
        for update in updates:
            if isinstance(update, RowFailed):
                self.over = True
                raise ERRORS[update.code](update.message)
            self._completion_tokens += 1
            # The id that ends a row is a control token or the caller's stop id: no text.
            if update.reason != "stop":
                shown.append(self._text.push(update.token))
            if update.reason is not None and not self._text.stopped:
                shown.append(self._text.finish())
            finish = "stop" if self._text.stopped else update.reason
            if finish is not None:
                break
        if text := "".join(shown):
            yield TextDelta(text)
        if finish is not None:
            self.over = True
            yield Finished(finish, self._usage(), self._timing())

    def _usage(self) -> Usage:
        return Usage(self._prompt_tokens, self._completion_tokens)

    def _timing(self) -> Timing:
        started = self._started or self._submitted
        first = self._first or started
        return Timing(
            queue=started - self._submitted, prompt=first - started, completion=self._last - first
        )
