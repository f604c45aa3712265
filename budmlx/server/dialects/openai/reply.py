"""The responses of `POST /v1/chat/completions`: whole, and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import UNSET

from budmlx.server.dialects.openai.builder import NewText, ReplyBuilder
from budmlx.server.dialects.openai.request import ChatRequest
from budmlx.server.dialects.openai.shapes import (
    ChatCompletion,
    Choice,
    Chunk,
    ChunkChoice,
    ContentLogprob,
    Delta,
    ReplyMessage,
    TopLogprob,
    WireFunction,
    WireLogprobs,
    WireReason,
    WireToolCall,
)
from budmlx.types import Choice as Answer
from budmlx.types import (
    ChoiceFinished,
    Completion,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
)


class Reply(ReplyBuilder[ChunkChoice]):
    """Builds the responses to one chat. filtered: the finish reason of what a filter ended."""

    def __init__(
        self,
        chat: ChatRequest,
        fingerprint: str,
        warnings: Sequence[str],
        filtered: Literal["content_filter", "error"] = "content_filter",
    ):
        super().__init__(chat, "chatcmpl", fingerprint, warnings)
        self._filtered = filtered
        self._n = chat.n
        self._logprobs = chat.wants_logprobs
        self._legacy = chat.uses_functions

    def opening(self) -> list[bytes]:
        """The chunks that say who speaks, one for each choice."""
        delta = Delta(role="assistant", content="")
        return [self._chunk(ChunkChoice(number, delta)) for number in range(self._n)]

    def _whole(self, done: Completion, **fields: Any) -> ChatCompletion:
        choices = tuple(
            Choice(
                number,
                self._message(choice),
                self._reason(choice.finish_reason),
                self._wire_logprobs(choice.logprobs),
            )
            for number, choice in enumerate(done.choices)
        )
        return ChatCompletion(object="chat.completion", choices=choices, **fields)

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

    def _chunk_of(self, choices: tuple[ChunkChoice, ...], **fields: Any) -> Chunk:
        return Chunk(object="chat.completion.chunk", choices=choices, **fields)

    def _delta(self, event: NewText) -> ChunkChoice:
        if isinstance(event, TextDelta):
            logprobs = self._wire_logprobs(event.logprobs)
            return ChunkChoice(event.choice, Delta(content=event.text), None, logprobs)
        if isinstance(event, ReasoningDelta):
            delta = Delta(reasoning=event.text, reasoning_content=event.text)
            return ChunkChoice(event.choice, delta)
        return ChunkChoice(event.choice, self._call_delta(event))

    def _call_delta(self, event: ToolCallDelta) -> Delta:
        function = WireFunction(event.arguments, event.name or UNSET)
        if self._legacy:
            return Delta(function_call=function)
        if not event.id:
            return Delta(tool_calls=(WireToolCall(function, event.index),))
        return Delta(tool_calls=(WireToolCall(function, event.index, event.id, "function"),))

    def _end(self, event: ChoiceFinished) -> ChunkChoice:
        return ChunkChoice(event.choice, Delta(), self._reason(event.reason))

    def _reason(self, reason: FinishReason) -> WireReason:
        return self._filtered if reason == "content_filter" else reason

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


def _call(call: ToolCall) -> WireToolCall:
    return WireToolCall(WireFunction(call.arguments, call.name), id=call.id, type="function")
