"""One thread that runs calls in order, and ways to wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """Runs calls one after the other. The thread is a daemon: a call that hangs stops no exit.

    thread: its identifier.
    """

    def __init__(self, name: str):
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        thread.start()
        self.thread = thread.ident or 0

    @property
    def backlog(self) -> int:
        """How many calls wait."""
        return self._queue.qsize()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Queue a call."""
        future: Future[T] = Future()
        self._queue.put((future, call))
        return future

    def end(self) -> None:
        """Let the thread end after the calls that are queued."""
        self._queue.put(None)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            future, call = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # the boundary of the thread: whoever waits must know
                future.set_exception(error)


def apart(name: str, call: Callable[[], T]) -> Future[T]:
    """Run a call on a thread of its own."""
    worker = Worker(name)
    future = worker.submit(call)
    worker.end()
    return future


@dataclass(frozen=True, slots=True)
class Wait:
    """A future that a procedure waits for, and for how many seconds; None: for ever."""

    future: Future[Any]
    timeout: float | None = None


Procedure = Generator[Wait, Any, T]
"""Yields what it waits for and is sent the result, or None after the timeout."""


def drive(procedure: Procedure[T]) -> T:
    """Run a procedure on a thread that may block."""
    result: Any = None
    try:
        while True:
            wait = procedure.send(result)
            try:
                result = wait.future.result(wait.timeout)
            except TimeoutError:
                wait.future.cancel()
                result = None
    except StopIteration as stop:
        value: T = stop.value
        return value


async def adrive(procedure: Procedure[T]) -> T:
    """Run a procedure without blocking the event loop."""
    result: Any = None
    try:
        while True:
            wait = procedure.send(result)
            try:
                async with asyncio.timeout(wait.timeout):
                    result = await asyncio.wrap_future(wait.future)
            except TimeoutError:
                result = None
    except StopIteration as stop:
        value: T = stop.value
        return value
