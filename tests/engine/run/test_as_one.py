"""The events of several requests as if they were of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from budmlx.engine.run.concurrent_requests import as_one
from budmlx.types import Event, Finished, FinishReason, TextDelta, Timing, Usage


async def part(*events: Event) -> AsyncIterator[Event]:
    for event in events:
        await asyncio.sleep(0)
        yield event


def end(*reasons: FinishReason, usage: Usage, timing: Timing, cached: bool = False) -> Finished:
    return Finished(reasons, usage, timing, cached=cached)


async def read(*parts: tuple[int, AsyncIterator[Event]]) -> list[Event]:
    return [event async for event in as_one(parts)]


def ends(timings: Sequence[Timing]) -> list[tuple[int, AsyncIterator[Event]]]:
    return [(1, part(end("stop", usage=Usage(1, 1), timing=timing))) for timing in timings]


async def test_choices_are_numbered_through_and_one_end_tells_of_all() -> None:
    first = end("stop", "length", usage=Usage(10, 3, 4, 1), timing=Timing(0, 1, 2))
    second = end("length", usage=Usage(20, 5, 6, 2), timing=Timing(0, 1, 1))
    *texts, last = await read(
        (2, part(TextDelta("a", 0), TextDelta("b", 1), first)), (1, part(TextDelta("c", 0), second))
    )
    found = sorted((text.choice, text.text) for text in texts if isinstance(text, TextDelta))
    assert found == [(0, "a"), (1, "b"), (2, "c")]
    assert isinstance(last, Finished)
    assert last.reasons == ("stop", "length", "length")
    assert last.usage == Usage(30, 8, 10, 3)


@pytest.mark.parametrize("place", range(3))
async def test_the_timing_is_that_of_the_part_that_took_longest(place: int) -> None:
    """In all: its queue, prompt and completion are each less than some other part's."""
    longest = Timing(2, 2, 2)
    timings = [Timing(3, 0, 0), Timing(0, 0, 5)]
    timings.insert(place, longest)
    [last] = await read(*ends(timings))
    assert isinstance(last, Finished) and last.timing == longest


@pytest.mark.parametrize("cached", [(True, True), (True, False), (False, False)])
async def test_only_what_is_cached_as_a_whole_is(cached: tuple[bool, bool]) -> None:
    parts = [
        (1, part(end("stop", usage=Usage(1, 1), timing=Timing(0, 0, 0), cached=each)))
        for each in cached
    ]
    [last] = await read(*parts)
    assert isinstance(last, Finished) and last.cached == all(cached)


async def test_the_first_failure_raises_and_ends_the_others() -> None:
    closed = False

    async def failing() -> AsyncIterator[Event]:
        yield TextDelta("a")
        raise ValueError("no")

    async def endless() -> AsyncIterator[Event]:
        nonlocal closed
        try:
            while True:
                yield TextDelta("b")
                await asyncio.sleep(0.001)
        finally:
            closed = True

    with pytest.raises(ValueError, match="no"):
        await read((1, endless()), (1, failing()))
    assert closed
