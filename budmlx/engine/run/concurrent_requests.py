"""Concurrent requests: several pipelines, consumed by one thread or as one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import ExitStack, aclosing, closing
from dataclasses import astuple, replace
from functools import partial, reduce
from operator import add
from queue import SimpleQueue
from typing import TypeVar

from tqdm.auto import tqdm

from budmlx.engine.procedures import Mailbox, Stream, Wait
from budmlx.progress import Progress
from budmlx.types import Event, Finished, FinishReason, Usage

T = TypeVar("T")


def run_all(
    streams: Sequence[Stream[Event]], *, progress: bool | Progress = False
) -> list[list[Event]]:
    """The events of each request, in order. One thread consumes them all, so none may wait for
    another. The first that fails raises; the others are cancelled then.

    progress: called whenever a request is finished; True: a bar on stderr.
    """
    events: list[list[Event]] = [[] for _ in streams]
    finished = 0
    with ExitStack() as stack:
        bar = tqdm(desc="Generating", total=len(streams), disable=progress is not True)
        stack.enter_context(bar)
        numbered: Iterator[tuple[int, Event]] = drive_streams(streams)
        for number, event in numbered:
            events[number].append(event)
            if isinstance(event, Finished):
                finished += 1
                bar.update()
                if callable(progress):
                    progress(finished, len(streams))
    return events


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


async def as_one(parts: Sequence[tuple[int, AsyncGenerator[Event, None]]]) -> AsyncIterator[Event]:
    """The events of several requests as they come, as if they were one request.

    Choices are numbered through, in the order of the parts, and one `Finished` stands for all:
    usage is the sum, the timing that of the part that took longest. The first part that fails
    raises and ends the others.

    parts: each with its number of choices.
    """
    queue: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue(maxsize=1)
    tasks: list[asyncio.Task[None]] = []
    firsts = [sum(count for count, _ in parts[:number]) for number in range(len(parts))]
    ends: dict[int, Finished] = {}
    try:
        for number, (_, source) in enumerate(parts):
            tasks.append(asyncio.create_task(_pump(number, source, queue)))
        while len(ends) < len(parts):
            number, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if isinstance(item, Finished):
                ends[number] = item
            else:
                yield replace(item, choice=item.choice + firsts[number])
        yield _summary([ends[number] for number in range(len(parts))])
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _pump(
    number: int,
    source: AsyncGenerator[Event, None],
    queue: asyncio.Queue[tuple[int, Event | Exception]],
) -> None:
    try:
        async with aclosing(source):
            async for event in source:
                await queue.put((number, event))
    except Exception as error:  # It is raised again where the events are consumed.
        await queue.put((number, error))


def _summary(ends: Sequence[Finished]) -> Finished:
    reasons: list[FinishReason] = [reason for end in ends for reason in end.reasons]
    counts = (astuple(end.usage) for end in ends)
    usage = Usage(*(reduce(add, each) for each in zip(*counts, strict=True)))
    timing = max((end.timing for end in ends), key=lambda timing: timing.total)
    return Finished(tuple(reasons), usage, timing, cached=all(end.cached for end in ends))
