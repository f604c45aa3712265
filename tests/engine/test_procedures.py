"""Procedures give the same whoever drives them: a thread, an event loop, one thread for many."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from budmlx.engine.procedures import (
    FutureWait,
    Mailbox,
    Procedure,
    Stream,
    adrive_stream,
    drive,
    drive_stream,
    off_loop,
)
from budmlx.engine.run.concurrent_requests import drive_streams
from budmlx.threads import run_apart


def on_a_thread(stream: Stream[Any]) -> list[Any]:
    return list(drive_stream(stream))


def on_a_loop(stream: Stream[Any]) -> list[Any]:
    async def run() -> list[Any]:
        return [value async for value in adrive_stream(stream)]

    return asyncio.run(run())


def among_many(stream: Stream[Any]) -> list[Any]:
    def other() -> Stream[Any]:
        yield "other"

    numbered = list(drive_streams([other(), stream, other()]))
    assert [value for number, value in numbered if number != 1] == ["other"] * 2
    return [value for number, value in numbered if number == 1]


Driver = Callable[[Stream[Any]], list[Any]]
DRIVERS = pytest.mark.parametrize("run", [on_a_thread, on_a_loop, among_many])


def double(number: int) -> Procedure[int]:
    doubled = run_apart("test", lambda: number * 2)
    yield FutureWait(doubled)
    return doubled.result()


@DRIVERS
def test_values_come_in_order_between_waits(run: Driver) -> None:
    mailbox: Mailbox[int] = Mailbox()

    def post() -> None:
        for number in range(500):
            mailbox.put(number)
            if number % 100 == 0:
                time.sleep(0.01)

    def numbers() -> Stream[int]:
        posting = run_apart("test", post)
        for _ in range(500):
            yield (yield from mailbox.receive())
        yield (yield from double(300))
        yield (yield from off_loop(lambda: 7))
        yield FutureWait(posting)

    assert run(numbers()) == [*range(500), 600, 7]


@DRIVERS
def test_a_wait_that_takes_too_long_cancels_what_has_not_begun(run: Driver) -> None:
    begun: Future[int] = Future()
    begun.set_running_or_notify_cancel()
    idle: Future[int] = Future()
    failed: Future[int] = Future()
    failed.set_exception(ValueError("seen by the procedure alone"))

    def waits() -> Stream[str]:
        for future in (begun, idle, failed):
            yield FutureWait(future, 0.05)
            yield f"{future.done()} {future.cancelled()}"

    assert run(waits()) == ["False False", "True True", "True False"]
    begun.set_result(1)  # nobody waits any more, and no loop is there to be told


def test_work_leaves_the_event_loop_and_no_other_thread() -> None:
    def threads() -> Stream[int]:
        yield (yield from off_loop(threading.get_ident))

    own = threading.get_ident()
    assert (on_a_thread(threads()), among_many(threads())) == ([own], [own])
    assert on_a_loop(threads()) != [own]


@DRIVERS
def test_errors_and_ends_close_the_stream(run: Driver) -> None:
    closed: list[type[BaseException] | None] = []

    def failing() -> Stream[int]:
        try:
            yield 1
            yield from off_loop(lambda: 1 // 0)  # type: ignore[misc]
        finally:
            closed.append(None)

    with pytest.raises(ZeroDivisionError):
        run(failing())
    assert closed == [None]


async def test_a_consumer_that_leaves_closes_the_stream() -> None:
    seen: list[str] = []

    def endless(name: str) -> Stream[str]:
        try:
            yield name
            yield from Mailbox[str]().receive()  # type: ignore[misc]
        except GeneratorExit:
            seen.append(name)
            raise

    values = drive_stream(endless("thread"))
    assert next(values) == "thread"
    values.close()
    waiting = asyncio.create_task(anext(adrive_stream(_second(endless("loop")))))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    many = drive_streams([endless("first"), endless("second")])
    assert next(many) == (0, "first")
    many.close()
    assert seen == ["thread", "loop", "first"]


def _second(stream: Stream[str]) -> Stream[str]:
    next(stream)
    yield from stream


def test_a_procedure_returns_its_result() -> None:
    assert drive(double(21)) == 42
