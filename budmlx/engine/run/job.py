"""One accepted request from its prompt to its end, whoever answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from budmlx.engine.asked import Prompt
from budmlx.engine.reuse.response_cache import Ticket
from budmlx.engine.reuse.stored_reply import StoredReply, replay
from budmlx.errors import BudmlxError, CancelledError
from budmlx.plugins.manager import Plugins
from budmlx.plugins.specs import RequestRecord
from budmlx.types import Event, Finished, Request

STOPPED = (GeneratorExit, KeyboardInterrupt, asyncio.CancelledError, CancelledError)


class Job:
    """A context manager around the consumption of a request's events; tells plugins its end.

    request: as it runs, after message transforms.
    """

    def __init__(
        self, request: Request, prompt: Prompt, ticket: Ticket, plugins: Plugins, model: str
    ):
        self.request = request
        self.prompt = prompt
        self.ticket = ticket
        self._plugins = plugins
        self._model = model
        self._finished: Finished | None = None

    def replayed(self, reply: StoredReply) -> Iterator[Event]:
        """The events of a kept reply."""
        for event in replay(reply):
            if isinstance(event, Finished):
                self._finished = event
            yield event

    def note(self, event: Event) -> Event:
        """See an event that was computed for this request; returns it."""
        self.ticket.note(event)
        if isinstance(event, Finished):
            self._finished = event
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ticket.close()
        self._plugins.request_finished(self._record(error))

    def _record(self, error: BaseException | None) -> RequestRecord:
        done = self._finished
        if done is not None:
            return RequestRecord(
                model=self._model,
                outcome="completed",
                reasons=done.reasons,
                cached=done.cached,
                usage=done.usage,
                timing=done.timing,
            )
        if error is None or isinstance(error, STOPPED):
            return RequestRecord(model=self._model, outcome="cancelled")
        code = error.code if isinstance(error, BudmlxError) else None
        return RequestRecord(model=self._model, outcome="failed", error=code or "internal_error")
