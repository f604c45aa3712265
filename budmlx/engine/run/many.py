"""Several requests at once: each keeps its own way through the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from rich.console import Console
from rich.progress import track

from budmlx.engine.calls.procedures import drive
from budmlx.engine.reply.mailbox import ThreadMailbox
from budmlx.engine.run.job import Job
from budmlx.engine.run.runner import Runner
from budmlx.types import Event, Finished, FinishReason, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from budmlx.engine.reply.generation import Generation


def run_all(runner: Runner, jobs: Iterable[Job], *, progress: bool) -> list[list[Event]]:
    """The events of each job, in order. One thread consumes them all, so none may wait for
    another. The first that fails raises; the others are cancelled then.

    progress: show a bar.
    """
    mailbox = ThreadMailbox()
    running: list[Job] = []
    waiting: dict[Generation, int] = {}
    events: list[list[Event]] = []
    with ExitStack() as stack:
        for number, job in enumerate(jobs):
            running.append(job)
            events.append([])
            if (reply := drive(job.ticket.lookup())) is not None:
                events[number] = list(job.replayed(reply))
                continue
            generation = runner.submit(job.request, job.prompt, mailbox)
            stack.callback(runner.release, generation)
            waiting[generation] = number
        bar = Console(stderr=True)
        for _ in track(list(waiting), "Generating", console=bar, disable=not progress):
            over = False
            while not over:
                generation, updates = mailbox.get()
                number = waiting[generation]
                new = runner.advance(generation, updates)
                events[number].extend(map(running[number].note, new))
                over = generation.over
    return events


async def as_one(parts: Sequence[tuple[int, AsyncIterator[Event]]]) -> AsyncIterator[Event]:
    """The events of several requests as they come, as if they were one request.

    Choices are numbered through, in the order of the parts, and one `Finished` tells of all:
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
    number: int, source: AsyncIterator[Event], queue: asyncio.Queue[tuple[int, Event | Exception]]
) -> None:
    try:
        async with aclosing(cast("AsyncGenerator[Event, None]", source)):
            async for event in source:
                await queue.put((number, event))
    except Exception as error:  # It is raised again where the events are consumed.
        await queue.put((number, error))


def _summary(ends: Sequence[Finished]) -> Finished:
    reasons: list[FinishReason] = [reason for end in ends for reason in end.reasons]
    usage = Usage(
        prompt_tokens=sum(end.usage.prompt_tokens for end in ends),
        completion_tokens=sum(end.usage.completion_tokens for end in ends),
        cached_tokens=sum(end.usage.cached_tokens for end in ends),
        reasoning_tokens=sum(end.usage.reasoning_tokens for end in ends),
    )
    timing = max((end.timing for end in ends), key=lambda timing: timing.total)
    return Finished(tuple(reasons), usage, timing, cached=all(end.cached for end in ends))
