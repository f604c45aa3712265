"""The replies of `POST /v1/chat/completions`: their shapes, whole and in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from budmlx.server.dialects.openai.quirks import reason_of_filters
from budmlx.server.dialects.openai.reply import NewText, ReplyBuilder, TimeInfo, WireUsage
from budmlx.server.dialects.openai.sampling import GenerationRequest
from budmlx.types import (
    CacheExplanation,
    ChoiceFinished,
    Completion,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
)
from budmlx.types import Choice as Answer

WireReason = FinishReason | Literal["error"]
"""error: stands for content_filter, for a client that does not know that."""


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


class WireFunction(Struct, frozen=True):
    """A function that is called; arguments: text of a JSON object."""

    arguments: str
    name: str | UnsetType = UNSET


class WireToolCall(Struct, frozen=True):
    """A call. index: in streams alone. Pieces after the first have neither id nor type."""

    function: WireFunction
    index: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class Delta(Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: tuple[WireToolCall, ...] | UnsetType = UNSET
    function_call: WireFunction | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True):
    """One choice of a chunk."""

    index: int
    delta: Delta
    finish_reason: WireReason | None = None
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
    cache_explanation: CacheExplanation | UnsetType = UNSET


class ReplyMessage(Struct, frozen=True):
    """The message of a whole reply. Clients read reasoning by one name or the other."""

    role: Literal["assistant"]
    content: str
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: tuple[WireToolCall, ...] | UnsetType = UNSET
    function_call: WireFunction | UnsetType = UNSET


class Choice(Struct, frozen=True):
    """One choice of a whole reply."""

    index: int
    message: ReplyMessage
    finish_reason: WireReason
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
    cache_explanation: CacheExplanation | UnsetType = UNSET


class ChatReply(ReplyBuilder[ChunkChoice]):
    """Encodes the reply to one chat.

    logprobs: report them. uses_functions: calls are of functions, the older name of tools.
    agent: the client's User-Agent.
    """

    def __init__(
        self,
        body: GenerationRequest,
        warnings: list[str],
        *,
        logprobs: bool,
        uses_functions: bool,
        agent: str,
    ):
        super().__init__(body, "chatcmpl", warnings)
        self._n = body.n
        self._logprobs = logprobs
        self._legacy = uses_functions
        self._agent = agent

    def _first(self) -> Iterable[ChunkChoice]:
        """The chunks with the role, one for each choice."""
        delta = Delta(role="assistant", content="")
        return (ChunkChoice(number, delta) for number in range(self._n))

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
        return reason_of_filters(self._agent) if reason == "content_filter" else reason

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
