"""The responses of `POST /v1/chat/completions`: whole, and in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from budmlx.types import ChoiceFinished, Event, Finished, FinishReason, TextDelta, Timing, Usage


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


class Delta(Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True):
    """One choice of a chunk."""

    index: int
    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: None = None


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
    warnings: Sequence[str] | UnsetType = UNSET


class ReplyMessage(Struct, frozen=True):
    """The message of a whole reply."""

    role: Literal["assistant"]
    content: str


class Choice(Struct, frozen=True):
    """One choice of a whole reply."""

    index: int
    message: ReplyMessage
    finish_reason: FinishReason
    logprobs: None = None


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
    warnings: Sequence[str] | UnsetType = UNSET


class Reply:
    """Builds the responses to one request, all with the same id, time and model.

    model: the name that the client asked for.
    include_usage: a last chunk without choices carries the usage of a stream.
    """

    def __init__(
        self, model: str, fingerprint: str, warnings: Sequence[str], *, include_usage: bool
    ):
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._fingerprint = fingerprint
        self._warnings = warnings or UNSET
        self._include_usage = include_usage

    def whole(self, text: str, finished: Finished) -> bytes:
        """The JSON of a whole reply."""
        choice = Choice(0, ReplyMessage("assistant", text), finished.reason)
        completion = ChatCompletion(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=(choice,),
            usage=_usage(finished.usage),
            time_info=_time_info(finished.timing),
            warnings=self._warnings,
        )
        return msgspec.json.encode(completion)

    def opening(self) -> bytes:
        """The chunk that says who speaks."""
        return self._chunk(ChunkChoice(0, Delta(role="assistant", content="")))

    def chunks(self, event: Event) -> list[bytes]:
        """The chunks for one event of the engine."""
        if isinstance(event, TextDelta):
            return [self._chunk(ChunkChoice(0, Delta(content=event.text)))]
        if isinstance(event, ChoiceFinished):
            return []
        last = ChunkChoice(0, Delta(), event.reason)
        usage, times = _usage(event.usage), _time_info(event.timing)
        if not self._include_usage:
            return [self._chunk(last, usage=usage, time_info=times, warnings=self._warnings)]
        return [
            self._chunk(last, warnings=self._warnings),
            self._chunk(usage=usage, time_info=times),
        ]

    def _chunk(
        self,
        *choices: ChunkChoice,
        usage: WireUsage | UnsetType = UNSET,
        time_info: TimeInfo | UnsetType = UNSET,
        warnings: Sequence[str] | UnsetType = UNSET,
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
            warnings=warnings,
        )
        return msgspec.json.encode(chunk)


def _usage(usage: Usage) -> WireUsage:
    return WireUsage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        PromptTokensDetails(usage.cached_tokens),
    )


def _time_info(timing: Timing) -> TimeInfo:
    return TimeInfo(timing.queue, timing.prompt, timing.completion, timing.total, time.time())
