"""The outcome of a request, for the response cache and for plugins that observe requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from types import TracebackType
from typing import Self

from budmlx.engine.calls.procedures import Stream, Wait
from budmlx.engine.reuse.response_cache import Ticket
from budmlx.engine.reuse.stored_reply import StoredReply, replay
from budmlx.errors import BudmlxError, CancelledError
from budmlx.plugins.manager import Plugins
from budmlx.plugins.specs import RequestRecord
from budmlx.types import Event, Finished

STOPPED = (GeneratorExit, KeyboardInterrupt, CancelledError)


class RequestOutcome:
    """A context manager around the events of an accepted request; tells plugins how it ended."""

    def __init__(self, ticket: Ticket, plugins: Plugins, model: str):
        self._ticket = ticket
        self._plugins = plugins
        self._model = model
        self._finished: Finished | None = None

    def replayed(self, reply: StoredReply) -> Iterator[Event]:
        """The events of a stored reply."""
        for event in replay(reply):
            if isinstance(event, Finished):
                self._finished = event
            yield event

    def noted(self, events: Stream[Event]) -> Stream[Event]:
        """The events that are computed for the request."""
        with closing(events):
            for step in events:
                if not isinstance(step, Wait):
                    self._ticket.note(step)
                    if isinstance(step, Finished):
                        self._finished = step
                yield step

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ticket.close()
        if self._plugins.observed:
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
