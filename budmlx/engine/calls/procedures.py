"""Procedures: code that waits without saying how, on a thread or on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


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
