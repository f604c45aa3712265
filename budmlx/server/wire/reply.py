"""The responses of `POST /v1/chat/completions`: whole, and in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from budmlx.server.wire.chat import ChatRequest
from budmlx.types import (
    ChoiceFinished,
    Completion,
    Event,
    Finished,
    FinishReason,
    TextDelta,
    Timing,
    TokenLogprob,
    Usage,
)


class PromptTokensDetails(Struct, frozen=True):
    """How the prompt's tokens were come by."""

    cached_tokens: int
    audio_tokens: int = 0


class WireUsage(Struct, frozen=True):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TimeInfo(Struct, frozen=True):
    """Where the time went, in seconds; `created` is the wall clock at the end."""

    queue_time: float
    prompt_time: float
    completion_time: float
    total_time: float
    created: float


class TopLogprob(Struct, frozen=True):
    """One of the most likely tokens at a place."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class ContentLogprob(Struct, frozen=True):
    """A token of the content."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[TopLogprob, ...]


class WireLogprobs(Struct, frozen=True):
    """The tokens of the content, or of a piece of it."""

    content: tuple[ContentLogprob, ...]


class Delta(Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True):
    """One choice of a chunk."""

    index: int
    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: WireLogprobs | None = None


class Chunk(Struct, frozen=True):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[ChunkChoice, ...]
    usage: WireUsage | UnsetType | None = UNSET
    time_info: TimeInfo | UnsetType = UNSET
    service_tier: str | UnsetType = UNSET
    warnings: Sequence[str] | UnsetType = UNSET
    cached: bool | UnsetType = UNSET


class ReplyMessage(Struct, frozen=True):
    """The message of a whole reply."""

    role: Literal["assistant"]
    content: str


class Choice(Struct, frozen=True):
    """One choice of a whole reply."""

    index: int
    message: ReplyMessage
    finish_reason: FinishReason
    logprobs: WireLogprobs | None = None


class ChatCompletion(Struct, frozen=True):
    """A whole reply."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[Choice, ...]
    usage: WireUsage
    time_info: TimeInfo
    service_tier: str | UnsetType = UNSET
    warnings: Sequence[str] | UnsetType = UNSET
    cached: bool | UnsetType = UNSET


class Reply:
    """Builds the responses to one request, all with the same id, time and model.

    They echo the model's name as the client wrote it. A stream's usage is in its last
    finish chunk or, if the client asked for it, in a chunk of its own without choices.
    """

    def __init__(self, chat: ChatRequest, fingerprint: str, warnings: Sequence[str]):
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = chat.model
        self._n = chat.n
        self._logprobs = chat.wants_logprobs
        self._service_tier = UNSET if chat.service_tier is None else "default"
        self._fingerprint = fingerprint
        self._warnings = warnings or UNSET
        self._include_usage = chat.include_usage
        self._asks_cache = chat.cache is not None
        self._ended: ChoiceFinished | None = None

    def whole(self, done: Completion) -> bytes:
        """The JSON of a whole reply."""
        reply = ChatCompletion(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=tuple(
                Choice(
                    number,
                    ReplyMessage("assistant", choice.text),
                    choice.finish_reason,
                    self._wire_logprobs(choice.logprobs),
                )
                for number, choice in enumerate(done.choices)
            ),
            usage=_usage(done.usage),
            time_info=_time_info(done.timing),
            service_tier=self._service_tier,
            warnings=self._warnings,
            cached=self._cached(done.cached),
        )
        return msgspec.json.encode(reply)

    def opening(self) -> list[bytes]:
        """The chunks that say who speaks, one for each choice."""
        delta = Delta(role="assistant", content="")
        return [self._chunk(ChunkChoice(number, delta)) for number in range(self._n)]

    def chunks(self, event: Event) -> list[bytes]:
        """The chunks for one event of the engine."""
        chunks = []
        if self._ended is not None and not isinstance(event, Finished):
            # Held back in case it is the last: that one carries the usage.
            chunks.append(self._chunk(_end(self._ended)))
            self._ended = None
        if isinstance(event, ChoiceFinished):
            self._ended = event
        elif isinstance(event, TextDelta):
            logprobs = self._wire_logprobs(event.logprobs)
            delta = Delta(content=event.text)
            chunks.append(self._chunk(ChunkChoice(event.choice, delta, None, logprobs)))
        else:
            chunks += self._last_chunks(event)
        return chunks

    def _last_chunks(self, event: Finished) -> list[bytes]:
        assert self._ended is not None
        last, usage, times = _end(self._ended), _usage(event.usage), _time_info(event.timing)
        cached, warnings = self._cached(event.cached), self._warnings
        if not self._include_usage:
            return [
                self._chunk(last, usage=usage, time_info=times, warnings=warnings, cached=cached)
            ]
        return [
            self._chunk(last, warnings=warnings, cached=cached),
            self._chunk(usage=usage, time_info=times),
        ]

    def _chunk(
        self,
        *choices: ChunkChoice,
        usage: WireUsage | UnsetType = UNSET,
        time_info: TimeInfo | UnsetType = UNSET,
        warnings: Sequence[str] | UnsetType = UNSET,
        cached: bool | UnsetType = UNSET,
    ) -> bytes:
        no_usage = None if self._include_usage else UNSET
        chunk = Chunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=no_usage if usage is UNSET else usage,
            time_info=time_info,
            service_tier=self._service_tier,
            warnings=warnings,
            cached=cached,
        )
        return msgspec.json.encode(chunk)

    def _cached(self, cached: bool) -> bool | UnsetType:
        """Whether the reply was kept, for those who asked and where it was."""
        return cached if cached or self._asks_cache else UNSET

    def _wire_logprobs(self, entries: Sequence[TokenLogprob]) -> WireLogprobs | None:
        if not self._logprobs:
            return None
        content = (
            ContentLogprob(
                entry.text,
                entry.logprob,
                tuple(entry.bytes),
                tuple(TopLogprob(t.text, t.logprob, tuple(t.bytes)) for t in entry.top),
            )
            for entry in entries
        )
        return WireLogprobs(tuple(content))


def _end(event: ChoiceFinished) -> ChunkChoice:
    return ChunkChoice(event.choice, Delta(), event.reason)


def _usage(usage: Usage) -> WireUsage:
    return WireUsage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        PromptTokensDetails(usage.cached_tokens),
    )


def _time_info(timing: Timing) -> TimeInfo:
    return TimeInfo(timing.queue, timing.prompt, timing.completion, timing.total, time.time())
