"""Threads that run calls: a worker that takes them one after the other, or one thread per call.

Standard library only; every ring may import it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


def cpu_clock() -> Callable[[], float]:
    """Seconds of CPU time that the calling thread takes from now on, for any thread to read.

    Read it while the thread lives. On systems that do not tell (macOS), seconds of wall time.
    """
    if hasattr(time, "pthread_getcpuclockid"):
        clock = time.pthread_getcpuclockid(threading.get_ident())
        begin = time.clock_gettime(clock)
        return lambda: time.clock_gettime(clock) - begin
    begin = time.monotonic()
    return lambda: time.monotonic() - begin


class Worker:
    """A daemon thread that runs calls one after the other; a call that hangs stops no exit.

    thread: its identifier.
    """

    def __init__(self, name: str):
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        thread.start()
        self.thread = thread.ident or 0

    @property
    def backlog(self) -> int:
        """The number of calls that wait."""
        return self._queue.qsize()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Queue a call; it runs in the caller's context, such as that of a request."""
        future: Future[T] = Future()
        self._queue.put((future, partial(copy_context().run, call)))
        return future

    def end(self) -> None:
        """Let the thread end after the calls that are queued."""
        self._queue.put(None)

    def _run(self) -> None:
        while (queued := self._queue.get()) is not None:
            future, call = queued
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # the boundary of the thread: whoever waits must know
                future.set_exception(error)


def run_apart(name: str, call: Callable[[], T]) -> Future[T]:
    """Run a call on a thread of its own."""
    worker = Worker(name)
    future = worker.submit(call)
    worker.end()
    return future
