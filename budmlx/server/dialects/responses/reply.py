"""Reply: the response and the events of its stream, from the events of the engine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from budmlx.server.dialects.responses.open_items import (
    OpenCall,
    OpenItem,
    OpenReasoning,
    OpenSummary,
    OpenText,
    event,
)
from budmlx.server.dialects.responses.shapes import (
    IncompleteDetails,
    InputDetails,
    ItemStatus,
    OutputDetails,
    OutputItem,
    Prefill,
    Response,
    ResponseError,
    ResponseEvent,
    ResponseUsage,
    Status,
    TextLogprob,
    TokenChance,
)
from budmlx.server.dialects.responses.tools import Toolbox
from budmlx.server.errors import Failure
from budmlx.server.sealed import Sealer
from budmlx.types import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

EARLY: Mapping[str, Literal["max_output_tokens", "content_filter"]] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}
"""Why a response ends early, by the finish reason."""

LEAST = -9999.0
"""The log probability of what is impossible: JSON has no infinity."""

Events = Iterator[ResponseEvent]


class ReplyBuilder:
    """Makes the items of one response, and the events that tell them, as the engine writes them.

    response: as it is now. summarised: reasoning is told as a summary. incremental: arguments of
    calls come piece by piece. tag: see `new_id`. late: warnings that only the response itself can
    tell.
    """

    def __init__(
        self,
        response: Response,
        toolbox: Toolbox,
        sealer: Sealer,
        *,
        summarised: bool,
        incremental: bool,
        asks_cache: bool,
        tag: str = "",
    ):
        self.response = response
        self._toolbox = toolbox
        self._sealer = sealer
        self._summarised = summarised
        self._incremental = incremental
        self._asks_cache = asks_cache
        self._tag = tag
        self.late: list[str] = []
        self._output: list[OutputItem] = []
        self._open: OpenItem | None = None
        self._reason: FinishReason = "stop"

    def begin(self) -> Events:
        """The events with which a stream begins."""
        yield event("created", response=self.response)
        if self.response.status == "queued":
            yield event("queued", response=self.response)
        else:
            yield event("in_progress", response=self.response)

    def start(self) -> Events:
        """The event that says that a response does not wait any more."""
        self._turn("in_progress")
        yield event("in_progress", response=self.response)

    def still_in_progress(self, prefilled: tuple[int, int] | None = None) -> ResponseEvent:
        """The event that says that nothing has ended. prefilled: see `RequestOrigin`."""
        output = tuple(self._output)
        status = "queued" if self.response.status == "queued" else "in_progress"
        now = msgspec.structs.replace(self.response, status=status, output=output)
        return event(status, response=now, prefill=Prefill(*prefilled) if prefilled else UNSET)

    def add(self, news: Event) -> Events:
        """The events for one event of the engine."""
        if isinstance(news, TextDelta):
            yield from self._into(OpenText)
            yield from self._opened().add(news.text, _logprobs(news.logprobs))
        elif isinstance(news, ReasoningDelta):
            yield from self._into(OpenSummary if self._summarised else OpenReasoning)
            yield from self._opened().add(news.text)
        elif isinstance(news, ToolCallDelta):
            yield from self._call(news)
        elif isinstance(news, ChoiceFinished):
            self._reason = news.reason
            yield from self._close("incomplete" if news.reason in EARLY else "completed")
        else:
            yield self._finished(news)

    def fail(self, failure: Failure) -> ResponseEvent:
        """The last event of a response that failed."""
        self._turn("failed", error=ResponseError(_code(failure), failure.message))
        return event("failed", response=self.response)

    def forget(self, problem: str) -> ResponseEvent:
        """The last event, once more, of a response that could not be stored."""
        before = self.response.warnings or ()
        warnings = [*before, f"The response was not stored: {problem}."]
        self._turn(self.response.status, store=False, warnings=warnings)
        return event(self.response.status, response=self.response)

    def cancel(self) -> ResponseEvent:
        """The last event of a response that was cancelled; clients know no type for it alone."""
        self._turn("cancelled")
        return event("incomplete", response=self.response)

    def _turn(self, status: Status, **fields: Any) -> None:
        output = tuple(self._output)
        changed = {"status": status, "output": output, **fields}
        self.response = msgspec.structs.replace(self.response, **changed)

    def _opened(self) -> OpenItem:
        assert self._open is not None
        return self._open

    def _into(self, kind: type[OpenItem]) -> Events:
        """Open an item, unless one of this kind is open."""
        if self._open is None or type(self._open) is not kind:
            yield from self._begin(kind)

    def _begin(self, kind: type[OpenItem]) -> Events:
        yield from self._close("completed")
        self._open = kind(len(self._output), self._tag)
        yield from self._open.open()

    def _call(self, piece: ToolCallDelta) -> Events:
        current = self._open
        if not (isinstance(current, OpenCall) and current.index == piece.index):
            yield from self._close("completed")
            called = self._toolbox.called(piece.name)
            self._open = OpenCall(len(self._output), self._tag, called, piece)
            yield from self._open.open()
        yield from self._opened().add(piece.arguments)
        if not self._incremental:
            yield from self._close("completed")

    def _close(self, status: ItemStatus) -> Events:
        if self._open is not None:
            yield from self._open.close(status, self._sealer)
            self._output.append(self._open.item)
            self._open = None

    def _finished(self, end: Finished) -> ResponseEvent:
        reason = EARLY.get(self._reason)
        status: Status = "incomplete" if reason else "completed"
        self._turn(
            status,
            incomplete_details=IncompleteDetails(reason) if reason else None,
            usage=_usage(end.usage),
            warnings=[*self.late, *end.warnings] or UNSET,
            cached=end.cached if end.cached or self._asks_cache else UNSET,
            cache_explanation=end.cache_explanation or UNSET,
        )
        return event(status, response=self.response)


def _logprobs(entries: Sequence[TokenLogprob]) -> tuple[TextLogprob, ...]:
    return tuple(
        TextLogprob(
            entry.text,
            max(entry.logprob, LEAST),
            tuple(entry.bytes),
            tuple(TokenChance(t.text, max(t.logprob, LEAST), tuple(t.bytes)) for t in entry.top),
        )
        for entry in entries
    )


def _usage(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        usage.prompt_tokens,
        InputDetails(usage.cached_tokens, usage.written_tokens),
        usage.completion_tokens,
        OutputDetails(usage.reasoning_tokens),
        usage.total_tokens,
    )


def _code(failure: Failure) -> str:
    """The code of a failure in a response; clients repeat some and give up at others."""
    if failure.code == "context_length_exceeded":
        return failure.code
    if failure.status in (429, 503):
        return "rate_limit_exceeded" if failure.code == "overloaded" else "server_error"
    return "invalid_prompt" if failure.status < 500 else "server_error"


def now() -> int:
    """The time in seconds since the epoch."""
    return int(time.time())


def framed(news: ResponseEvent, number: int) -> bytes:
    """An event on the wire, with its number."""
    news.sequence_number = number
    return b"event: %b\ndata: %b\n\n" % (news.type.encode(), msgspec.json.encode(news))
