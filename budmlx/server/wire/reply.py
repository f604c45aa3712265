"""The responses of `POST /v1/chat/completions`: whole, and in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from budmlx.server.wire.chat import ChatRequest
from budmlx.server.wire.shapes import (
    ChatCompletion,
    Choice,
    Chunk,
    ChunkChoice,
    CompletionTokensDetails,
    ContentLogprob,
    Delta,
    PromptTokensDetails,
    ReplyMessage,
    TimeInfo,
    TopLogprob,
    WireFunction,
    WireLogprobs,
    WireToolCall,
    WireUsage,
)
from budmlx.types import Choice as Answer
from budmlx.types import (
    ChoiceFinished,
    Completion,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    Timing,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
)


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
        self._legacy = chat.uses_functions
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
                    self._message(choice),
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

    def _message(self, choice: Answer) -> ReplyMessage:
        calls = choice.tool_calls
        return ReplyMessage(
            "assistant",
            choice.text,
            reasoning=choice.reasoning or UNSET,
            reasoning_content=choice.reasoning or UNSET,
            tool_calls=tuple(map(_call, calls)) if calls and not self._legacy else UNSET,
            function_call=_call(calls[0]).function if calls and self._legacy else UNSET,
        )

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
        elif isinstance(event, ReasoningDelta):
            delta = Delta(reasoning=event.text, reasoning_content=event.text)
            chunks.append(self._chunk(ChunkChoice(event.choice, delta)))
        elif isinstance(event, ToolCallDelta):
            chunks.append(self._chunk(ChunkChoice(event.choice, self._call_delta(event))))
        else:
            chunks += self._last_chunks(event)
        return chunks

    def _call_delta(self, event: ToolCallDelta) -> Delta:
        function = WireFunction(event.arguments, event.name or UNSET)
        if self._legacy:
            return Delta(function_call=function)
        if not event.id:
            return Delta(tool_calls=(WireToolCall(function, event.index),))
        return Delta(tool_calls=(WireToolCall(function, event.index, event.id, "function"),))

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
        CompletionTokensDetails(usage.reasoning_tokens),
    )


def _time_info(timing: Timing) -> TimeInfo:
    return TimeInfo(timing.queue, timing.prompt, timing.completion, timing.total, time.time())


def _call(call: ToolCall) -> WireToolCall:
    return WireToolCall(WireFunction(call.arguments, call.name), id=call.id, type="function")
