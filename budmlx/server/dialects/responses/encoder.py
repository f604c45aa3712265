"""Encoder of the reply to one request, whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import cast

import msgspec

from budmlx.server.dialects.responses.reply import ReplyBuilder, framed
from budmlx.server.dialects.responses.shapes import ResponseEvent
from budmlx.server.errors import Failure
from budmlx.server.warnings_header import warnings_header
from budmlx.types import Completion, Event, Finished


class Reply:
    """The `ReplyEncoder` of one response.

    keep: called with the whole response, before the client hears that it is whole; returns why it
    could not be stored, or an empty string.
    """

    stream_type = "text/event-stream"

    def __init__(
        self, builder: ReplyBuilder, warnings: list[str], keep: Callable[[], Awaitable[str]]
    ):
        self._builder = builder
        self._warnings = warnings
        self._keep = keep
        self._told = False
        self._events: list[ResponseEvent] = []
        self._sent = 0

    @property
    def id(self) -> str:
        """The id of the response."""
        return self._builder.response.id

    @property
    def headers(self) -> Mapping[str, str]:
        """The header with the warnings, of which the protocol knows nothing."""
        self._told = True
        return warnings_header(self._warnings)

    def warn(self, warnings: Iterable[str]) -> None:
        """Add warnings: to the header, or to the response when the header has been sent."""
        (self._builder.late if self._told else self._warnings).extend(warnings)

    async def following(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The events of the engine, each when the response has taken it."""
        async with aclosing(cast("AsyncGenerator[Event, None]", events)):
            async for event in events:
                said = list(self._builder.add(event))
                if isinstance(event, Finished) and (problem := await self._keep()):
                    said[-1] = self._builder.forget(problem)
                self._events += said
                yield event

    def opening(self) -> bytes:
        """The events with which a stream begins."""
        return self._framed(self._builder.begin())

    def keep_alive(self) -> bytes:
        """The event that says that nothing has ended: clients do not count comments."""
        return self._framed([self._builder.still_in_progress()])

    def prefilled(self, done: int, total: int) -> bytes:
        """The same, with how far a long prompt is."""
        return self._framed([self._builder.still_in_progress((done, total))])

    def chunks(self, event: Event) -> bytes:
        """The events for one event of the engine."""
        events, self._events = self._events, []
        return self._framed(events)

    def _framed(self, events: Iterable[ResponseEvent]) -> bytes:
        frames = [framed(event, number) for number, event in enumerate(events, self._sent)]
        self._sent += len(frames)
        return b"".join(frames)

    def end(self) -> bytes:
        """Nothing: the last event says that it is the last."""
        return b""

    def failure(self, failure: Failure) -> bytes:
        """The last event of a response that failed."""
        return self._framed([self._builder.fail(failure)])

    def whole(self, done: Completion) -> bytes:
        """The JSON of a response that is not streamed."""
        self._warnings = [*done.warnings]
        return msgspec.json.encode(self._builder.response)
