"""Procedures: generators that wait, driven either on a thread or on an event loop.

A procedure yields each thing that it waits for, and reads the outcome from that thing. A stream
yields values, too. The driver decides what waiting means.

Calls of plugins may take for ever, and Python cannot stop them: they run on other threads, and
a request gives up waiting. What budmlx ships is trusted and called directly: a thread for each
piece of a reply would cost more than its parser does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, ClassVar, Generic, Self, TypeVar

from budmlx.errors import BudmlxError
from budmlx.plugins.boundary import running_on
from budmlx.plugins.hanging import HangingCalls
from budmlx.threads import Worker

T = TypeVar("T")


class Wait:
    """An awaited thing: a procedure yields it, and reads its outcome afterwards."""

    def block(self) -> None:
        """Wait on a thread."""
        raise NotImplementedError

    async def suspend(self) -> None:
        """Wait on an event loop."""
        raise NotImplementedError


Procedure = Generator[Wait, None, T]
"""Yields what it waits for, and returns a result."""
Stream = Generator[Wait | T, None, None]
"""Yields what it waits for, and values."""


class FutureWait(Wait):
    """A wait for a future. After `timeout` seconds it is cancelled if it can be."""

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
        self._arrived: asyncio.Future[None] | None = None
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
        loop = asyncio.get_running_loop()
        if self._arrived is None:
            self.wake = partial(_LoopWaker.of(loop).call_soon, self._resume)
        # First, so that what comes from now on ends the wait.
        self._arrived = loop.create_future()
        if not self._items:
            await self._arrived

    def _resume(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)


class _LoopWaker:
    """Calls functions on one event loop for other threads, many with one call into the loop.

    A frame brings mail for every running request, and each such call costs a write to a socket.
    """

    _wakers: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopWaker]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = weakref.ref(loop)
        self._calls: deque[Callable[[], None]] = deque()
        self._called = False

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> _LoopWaker:
        """The waker of a loop."""
        return cls._wakers.setdefault(loop, cls(loop))

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have a function called on the loop. Thread-safe; never blocks."""
        self._calls.append(call)
        if self._called or (loop := self._loop()) is None:
            return
        self._called = True
        # RuntimeError: the loop was closed under the procedure, so there is no receiver.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._call)

    def _call(self) -> None:
        # First, so that what comes from now on has a call of its own.
        self._called = False
        while self._calls:
            self._calls.popleft()()


class _Work(Wait, Generic[T]):
    """A call that takes long. outcome: done when it is."""

    def __init__(self, call: Callable[[], T]):
        self._call = call
        self.outcome: Future[T] = Future()

    def block(self) -> None:
        try:
            self.outcome.set_result(self._call())
        except Exception as error:  # the procedure raises it, as if it had made the call
            self.outcome.set_exception(error)

    async def suspend(self) -> None:
        await asyncio.to_thread(self.block)


def off_loop(call: Callable[[], T], unwanted: Callable[[T], object] | None = None) -> Procedure[T]:
    """The result of a call that must not run on an event loop; raises what it raises.

    unwanted: gets the result if the procedure was given up meanwhile.
    """
    work = _Work(call)
    try:
        yield work
    except GeneratorExit:
        if unwanted is not None:
            work.outcome.add_done_callback(partial(_hand, unwanted))
        raise
    return work.outcome.result()


def _hand(taker: Callable[[T], object], done: Future[T]) -> None:
    if done.exception() is None:
        taker(done.result())


def drive(procedure: Procedure[T]) -> T:
    """Run a procedure on a thread that may block."""
    with closing(procedure):
        try:
            while True:
                next(procedure).block()
        except StopIteration as stop:
            result: T = stop.value
            return result


async def adrive(procedure: Procedure[T]) -> T:
    """Run a procedure on an event loop. A cancelled one is closed."""
    with closing(procedure):
        try:
            while True:
                await next(procedure).suspend()
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


class PluginCalls:
    """A context manager around the calls of one request, on a thread or directly.

    plugins: those that it uses and that may hang.

    Raises:
        PluginError: a call of one of them still hangs.
    """

    def __init__(self, hanging: HangingCalls, plugins: Collection[str]):
        if plugins:
            hanging.check(plugins, most=1)
        self._hanging = hanging
        self._plugins = plugins
        self._worker = Worker("budmlx-plugins") if plugins else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker is not None:
            self._worker.end()

    def run(self, call: Callable[[], T]) -> Procedure[T]:
        """Make one call, whose result nobody gets if the request gives up.

        Raises:
            PluginError: a plugin does not return, or too many of its calls do not.
        """
        if self._worker is None:
            return call()
        self._hanging.check(self._plugins)
        future = self._worker.submit(call)
        while True:
            yield FutureWait(future, self._hanging.seconds)
            if future.cancelled():  # the thread had no time to begin
                future = self._worker.submit(call)
            elif future.done():
                return future.result()
            elif (at := running_on(self._worker.thread)) is not None:
                raise self._hanging.add(*at, future)

    def items(self, items: Iterator[T]) -> Procedure[Iterator[T]]:
        """The items, computed at once if they are computed on the thread; see `run`."""
        if self._worker is None:
            return items
        return (yield from self.run(partial(_computed, items)))


def _computed(items: Iterator[T]) -> Iterator[T]:
    done: list[T] = []
    try:
        done.extend(items)
    except BudmlxError as error:
        return _then(done, error)
    return iter(done)


def _then(items: list[T], error: BudmlxError) -> Iterator[T]:
    yield from items
    raise error
