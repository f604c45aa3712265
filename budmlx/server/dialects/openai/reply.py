"""Reply builder: the parts that all replies share, and the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from budmlx.engine.engine import Engine
from budmlx.server.dialects.openai.sampling import GenerationRequest
from budmlx.server.endpoints import Streamed
from budmlx.server.errors import Failure
from budmlx.server.openai_errors import StreamError
from budmlx.types import (
    ChoiceFinished,
    Completion,
    Event,
    Finished,
    ReasoningDelta,
    Request,
    TextDelta,
    Timing,
    ToolCallDelta,
    Usage,
)

EVENTS = (
    "Server-sent events: `data:` lines, each the JSON of a {name}, then `data: [DONE]`. Lines that "
    "begin with a colon keep the connection alive. An error after the first event is the last "
    'one: `{{"error": ..., "status_code": ...}}`.'
)

NewText = TextDelta | ReasoningDelta | ToolCallDelta
ChunkChoice = TypeVar("ChunkChoice", bound=Struct)


class PromptTokensDetails(Struct, frozen=True):
    """Where the prompt's tokens came from."""

    cached_tokens: int
    audio_tokens: int = 0


class CompletionTokensDetails(Struct, frozen=True):
    """What the completion's tokens are. Some clients need all of these fields."""

    reasoning_tokens: int
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class WireUsage(Struct, frozen=True):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TimeInfo(Struct, frozen=True):
    """Where the time went, in seconds; `created` is the wall clock at the end."""

    queue_time: float
    prompt_time: float
    completion_time: float
    total_time: float
    created: float


def server_sent(chunk: type[Struct]) -> Streamed:
    """The OpenAPI description of a stream of such chunks."""
    return Streamed("text/event-stream", EVENTS.format(name=chunk.__name__), chunk)


class ReplyBuilder(ABC, Generic[ChunkChoice]):
    """Encodes the reply to one request, all of it with the same id, time and model.

    They echo the model's name as the client wrote it. A stream's usage is in its last
    finish chunk or, if the client requested it, in a chunk of its own without choices.
    """

    headers: Mapping[str, str] = {}
    stream_type = "text/event-stream"

    def __init__(self, body: GenerationRequest, prefix: str, warnings: list[str]):
        """warnings: known so far; `loaded` adds to this list."""
        self._common = {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": "",
            "service_tier": UNSET
            if (tier := body.service_tier) is None
            else tier
            if tier == "flex"
            else "default",
        }
        self._warnings = warnings
        options = body.stream_options
        self._include_usage = options is not None and options.include_usage
        self._asks_cache = body.cache is not None
        self._ended: ChoiceFinished | None = None

    def loaded(self, engine: Engine, request: Request) -> None:
        """Learn what the loaded model says of itself and of the request.

        A stream that had to begin before has an empty fingerprint in its first chunk.
        """
        self._common["system_fingerprint"] = engine.info.fingerprint
        self._warnings += engine.warnings(request)

    @property
    def id(self) -> str:
        """The reply's id."""
        return str(self._common["id"])

    def whole(self, done: Completion) -> bytes:
        """The JSON of a whole reply."""
        reply = self._whole(
            done,
            **self._common,
            usage=_usage(done.usage),
            time_info=_time_info(done.timing),
            warnings=done.warnings or UNSET,
            cached=self._cached(done.cached),
            cache_explanation=done.cache_explanation or UNSET,
        )
        return msgspec.json.encode(reply)

    def opening(self) -> bytes:
        """The chunks with which a stream begins."""
        return b"".join(self._chunk(choice) for choice in self._first())

    def keep_alive(self) -> bytes:
        """A comment."""
        return b": ping\n\n"

    def prefilled(self, done: int, total: int) -> bytes:
        """A comment with the tokens of the prompt that are computed."""
        return f": prefilled {done}/{total} tokens\n\n".encode()

    def end(self) -> bytes:
        """The mark of a complete stream."""
        return b"data: [DONE]\n\n"

    def failure(self, failure: Failure) -> bytes:
        """An error as an event."""
        return _framed(msgspec.json.encode(StreamError.of(failure)))

    def chunks(self, event: Event) -> bytes:
        """The chunks for one event of the engine."""
        chunks = []
        if self._ended is not None and not isinstance(event, Finished):
            # Held back in case it is the last: that one carries the usage.
            chunks.append(self._chunk(self._end(self._ended)))
            self._ended = None
        if isinstance(event, ChoiceFinished):
            self._ended = event
        elif isinstance(event, Finished):
            chunks += self._last_chunks(event)
        else:
            chunks.append(self._chunk(self._delta(event)))
        return b"".join(chunks)

    def _last_chunks(self, event: Finished) -> list[bytes]:
        assert self._ended is not None
        last, usage, times = self._end(self._ended), _usage(event.usage), _time_info(event.timing)
        notes = {
            "warnings": [*self._warnings, *event.warnings] or UNSET,
            "cached": self._cached(event.cached),
            "cache_explanation": event.cache_explanation or UNSET,
        }
        if not self._include_usage:
            return [self._chunk(last, usage=usage, time_info=times, **notes)]
        return [self._chunk(last, **notes), self._chunk(usage=usage, time_info=times)]

    def _chunk(self, *choices: ChunkChoice, **fields: Any) -> bytes:
        no_usage = None if self._include_usage else UNSET
        fields = {**self._common, "usage": no_usage, **fields}
        return _framed(msgspec.json.encode(self._chunk_of(choices, **fields)))

    def _cached(self, cached: bool) -> bool | UnsetType:
        """Whether the reply came from the cache; absent if not, unless the client set `cache`."""
        return cached if cached or self._asks_cache else UNSET

    # What differs between endpoints. fields: those that all shapes have.

    @abstractmethod
    def _first(self) -> Iterable[ChunkChoice]: ...

    @abstractmethod
    def _whole(self, done: Completion, **fields: Any) -> Struct: ...

    @abstractmethod
    def _chunk_of(self, choices: tuple[ChunkChoice, ...], **fields: Any) -> Struct: ...

    @abstractmethod
    def _delta(self, event: NewText) -> ChunkChoice: ...

    @abstractmethod
    def _end(self, event: ChoiceFinished) -> ChunkChoice: ...


def _framed(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _usage(usage: Usage) -> WireUsage:
    return WireUsage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        PromptTokensDetails(usage.cached_tokens),
        CompletionTokensDetails(
            usage.reasoning_tokens,
            accepted_prediction_tokens=usage.accepted_prediction_tokens,
            rejected_prediction_tokens=usage.rejected_prediction_tokens,
        ),
    )


def _time_info(timing: Timing) -> TimeInfo:
    phases = (timing.queue, timing.prompt, timing.completion)
    return TimeInfo(*phases, sum(phases), time.time())
