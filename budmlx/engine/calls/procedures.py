"""Procedures: generators that wait without saying how, driven on a thread or an event loop.

A procedure yields each thing that it waits for, and reads the outcome from that thing. A stream
yields values, too. Whoever drives one decides what waiting means.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Wait(ABC):
    """Something that a procedure waits for."""

    @abstractmethod
    def block(self) -> None:
        """Wait on a thread."""

    @abstractmethod
    async def suspend(self) -> None:
        """Wait on an event loop."""


Procedure = Generator[Wait, None, T]
"""Yields what it waits for, and returns a result."""
Stream = Generator[Wait | T, None, None]
"""Yields what it waits for, and values."""


class FutureWait(Wait):
    """A future, done in whatever way. After `timeout` seconds it is cancelled if it can be."""

    def __init__(self, future: Future[Any], timeout: float | None = None):
        self._future = future
        self._timeout = timeout

    def block(self) -> None:
        """See `Wait`."""
        try:
            concurrent.futures.wait([self._future], self._timeout)
        finally:
            self._future.cancel()

    async def suspend(self) -> None:
        """See `Wait`."""
        done = asyncio.wrap_future(self._future)
        try:
            await asyncio.wait([done], timeout=self._timeout)
            if done.done() and not done.cancelled():
                done.exception()  # the procedure looks at it
        finally:
            self._future.cancel()
            done.cancel()


class Mailbox(Wait, Generic[T]):
    """Items from other threads, which one procedure receives in order.

    wake: called after each `put`, on the thread that calls it.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._blocked: SimpleQueue[None] = SimpleQueue()
        self._arrived: asyncio.Event | None = None
        self.wake: Callable[[], object] = partial(self._blocked.put, None)

    def __bool__(self) -> bool:
        return bool(self._items)

    def put(self, item: T) -> None:
        """Add an item. Thread-safe; never blocks."""
        self._items.append(item)
        self.wake()

    def receive(self) -> Procedure[T]:
        """The next item."""
        while not self._items:
            yield self
        return self._items.popleft()

    def block(self) -> None:
        """See `Wait`. Returns now and then although nothing came."""
        self._blocked.get()

    async def suspend(self) -> None:
        """See `Wait`."""
        if self._arrived is None:
            self._arrived = asyncio.Event()
            self.wake = partial(_set_soon, asyncio.get_running_loop(), self._arrived)
        self._arrived.clear()
        if not self._items:
            await self._arrived.wait()


def _set_soon(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    # RuntimeError: the loop was closed under the procedure; nobody receives anything.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(event.set)


class _Work(Wait, Generic[T]):
    """A call that takes long. What it raises reaches whoever drives, not the procedure."""

    def __init__(self, call: Callable[[], T]):
        self._call = call
        self.result: T

    def block(self) -> None:
        self.result = self._call()

    async def suspend(self) -> None:
        self.result = await asyncio.to_thread(self._call)


def off_loop(call: Callable[[], T]) -> Procedure[T]:
    """The result of a call that must not run on an event loop.

    What it raises reaches whoever drives the procedure, which is closed then.
    """
    work = _Work(call)
    yield work
    return work.result


def drive(procedure: Procedure[T]) -> T:
    """Run a procedure on a thread that may block."""
    try:
        while True:
            next(procedure).block()
    except StopIteration as stop:
        result: T = stop.value
        return result


def drive_stream(stream: Stream[T]) -> Generator[T, None, None]:
    """The values of a stream, on a thread that may block. Closing it closes the stream."""
    with closing(stream):
        for step in stream:
            if isinstance(step, Wait):
                step.block()
            else:
                yield step


async def adrive_stream(stream: Stream[T]) -> AsyncGenerator[T, None]:
    """The values of a stream, on an event loop. Closing it closes the stream."""
    with closing(stream):
        for step in stream:
            if isinstance(step, Wait):
                await step.suspend()
            else:
                yield step


def drive_streams(streams: Sequence[Stream[T]]) -> Generator[tuple[int, T], None, None]:
    """The values of all streams as they come, each with the number of its stream.

    One thread drives them: each stream until it waits for its mailbox, so that none may wait
    for another in any other way; then those that get mail.
    """
    mail: SimpleQueue[int] = SimpleQueue()
    running: dict[int, Stream[T]] = {}
    with ExitStack() as stack:
        for number, stream in enumerate(streams):
            running[number] = stack.enter_context(closing(stream))
            yield from _until_mail(number, running, mail)
        while running:
            yield from _until_mail(mail.get(), running, mail)


def _until_mail(
    number: int, running: dict[int, Stream[T]], mail: SimpleQueue[int]
) -> Generator[tuple[int, T], None, None]:
    for step in running.get(number, ()):
        if isinstance(step, Mailbox):
            step.wake = partial(mail.put, number)
            if not step:
                return
        elif isinstance(step, Wait):
            step.block()
        else:
            yield number, step
    running.pop(number, None)
