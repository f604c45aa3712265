"""Outcomes of requests: where each came from and how it ended, as records for plugins."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from budmlx.engine.reuse.response_cache import Ticket
from budmlx.engine.reuse.stored_reply import StoredReply, replay
from budmlx.errors import BudmlxError, CancelledError, InvalidRequestError
from budmlx.plugins.manager import Plugins
from budmlx.plugins.specs import RequestRecord
from budmlx.types import Event, Finished

STOPPED = (GeneratorExit, KeyboardInterrupt, CancelledError)


@dataclass(slots=True)
class RequestOrigin:
    """Where a request came from; see `RequestRecord`.

    recorded: an engine took the request, so its end is recorded there.
    """

    request_id: str = ""
    response_id: str = ""
    key: str = ""
    route: str = ""
    started: float = field(default_factory=time.time)
    recorded: bool = False

    def record(self, **values: Any) -> RequestRecord:
        """The record of a request that ends now. values: the other fields."""
        return RequestRecord(
            request_id=self.request_id,
            response_id=self.response_id,
            key=self.key,
            route=self.route,
            started=self.started,
            finished=time.time(),
            **values,
        )


class RequestOutcome:
    """A context manager around the events of a request; reports its end to plugins."""

    def __init__(self, plugins: Plugins, model: str, origin: RequestOrigin):
        origin.recorded = True
        self._plugins = plugins
        self._model = model
        self._origin = origin
        self._ticket: Ticket | None = None
        self._finished: Finished | None = None

    def accepted(self, ticket: Ticket) -> None:
        """Note that the request can be answered. ticket: closed at its end."""
        self._ticket = ticket

    def replayed(self, reply: StoredReply) -> Iterator[Event]:
        """The events of a stored reply."""
        for event in replay(reply):
            if isinstance(event, Finished):
                self._finished = event
            yield event

    def note(self, event: Event) -> None:
        """Take an event that is computed for the request."""
        if self._ticket is not None:
            self._ticket.note(event)
        if isinstance(event, Finished):
            self._finished = event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ticket is not None:
            self._ticket.close()
        if self._plugins.observed:
            self._plugins.request_finished(self._record(error))

    def _record(self, error: BaseException | None) -> RequestRecord:
        done = self._finished
        if done is not None:
            return self._origin.record(
                model=self._model,
                outcome="completed",
                reasons=done.reasons,
                cached=done.cached,
                usage=done.usage,
                timing=done.timing,
            )
        if error is None or isinstance(error, STOPPED):
            return self._origin.record(model=self._model, outcome="cancelled")
        code = error.code if isinstance(error, BudmlxError) else "internal_error"
        if isinstance(error, InvalidRequestError):
            code = code or "invalid_request"
            return self._origin.record(model=self._model, outcome="refused", error=code)
        return self._origin.record(model=self._model, outcome="failed", error=code)
