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

    warnings: more may be added until it begins. keep: called with the whole response, before
    the client hears that it is whole.
    """

    stream_type = "text/event-stream"

    def __init__(
        self, builder: ReplyBuilder, warnings: list[str], keep: Callable[[], Awaitable[None]]
    ):
        self._builder = builder
        self._warnings = warnings
        self._keep = keep
        self._events: list[ResponseEvent] = []
        self._sent = 0

    @property
    def id(self) -> str:
        """The id of the response."""
        return self._builder.response.id

    @property
    def headers(self) -> Mapping[str, str]:
        """The header with the warnings, of which the protocol knows nothing."""
        return warnings_header(self._warnings)

    async def following(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The events of the engine, each when the response has taken it."""
        async with aclosing(cast("AsyncGenerator[Event, None]", events)):
            async for event in events:
                self._events += self._builder.add(event)
                if isinstance(event, Finished):
                    await self._keep()
                yield event

    def opening(self) -> bytes:
        """The events with which a stream begins."""
        return self._framed(self._builder.begin())

    def keep_alive(self) -> bytes:
        """The event that says that nothing has ended: clients do not count comments."""
        return self._framed([self._builder.still_in_progress()])

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
