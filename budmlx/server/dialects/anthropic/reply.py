"""The replies of `POST /v1/messages`: a message, whole or as events."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from budmlx.server.dialects.anthropic.errors import ErrorOfMessages, MessagesError
from budmlx.server.endpoints import Streamed
from budmlx.server.errors import Failure
from budmlx.server.warnings_header import warnings_header
from budmlx.types import (
    CacheExplanation,
    ChoiceFinished,
    Completion,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    ToolCallDelta,
    Usage,
)

StopReason = Literal[
    "end_turn",
    "stop_sequence",
    "max_tokens",
    "model_context_window_exceeded",
    "tool_use",
    "refusal",
]

EVENTS = (
    "Server-sent events, each with the name of its type: `message_start`, for each block "
    "`content_block_start`, `content_block_delta` and `content_block_stop`, then `message_delta` "
    "and `message_stop`. A `ping` may come anywhere, also before the first event, which waits for "
    "the counts of the prompt; its `prefill` says how far a long prompt is. An error is the last "
    "event."
)


class OutputTokensDetails(Struct, frozen=True):
    """What the tokens of the reply are."""

    thinking_tokens: int


class MessageUsage(Struct, frozen=True):
    """Token counts. The three of the prompt are disjoint, and all of it together.

    cache_read_input_tokens: those that were not computed. cache_creation_input_tokens: those that
    were, and are stored for prompts that begin alike. input_tokens: the others.
    """

    input_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails | UnsetType = UNSET

    @classmethod
    def of(cls, usage: Usage) -> MessageUsage:
        """The same counts on the wire."""
        read, written = usage.cached_tokens, usage.written_tokens
        details = OutputTokensDetails(usage.reasoning_tokens) if usage.reasoning_tokens else UNSET
        rest = usage.prompt_tokens - read - written
        return cls(rest, read, written, usage.completion_tokens, details)


class TextOut(Struct, frozen=True, tag_field="type", tag="text"):
    """Text of the reply."""

    text: str


class ThinkingOut(Struct, frozen=True, tag_field="type", tag="thinking"):
    """Reasoning. signature: holds it, for this server alone, so that it may come back unseen."""

    thinking: str
    signature: str


class ToolUseOut(Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A call. input: empty at the start of a block of a stream."""

    id: str
    name: str
    input: dict[str, Any]


BlockOut = TextOut | ThinkingOut | ToolUseOut


class MessageOut(Struct, frozen=True, tag_field="type", tag="message"):
    """The reply."""

    id: str
    role: Literal["assistant"]
    model: str
    content: tuple[BlockOut, ...]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage
    cache_explanation: CacheExplanation | UnsetType = UNSET


class MessageStart(Struct, frozen=True, tag_field="type", tag="message_start"):
    """The first event."""

    message: MessageOut


class Prefill(Struct, frozen=True):
    """How far a long prompt is, in tokens."""

    completed: int
    total: int


class Ping(Struct, frozen=True, tag_field="type", tag="ping"):
    """A sign of life, which clients leave out. prefill: while a long prompt is computed."""

    prefill: Prefill | UnsetType = UNSET


class BlockStart(Struct, frozen=True, tag_field="type", tag="content_block_start"):
    """A block begins."""

    index: int
    content_block: BlockOut


class TextPiece(Struct, frozen=True, tag_field="type", tag="text_delta"):
    """More text."""

    text: str


class ThinkingPiece(Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    """More reasoning."""

    thinking: str


class SignaturePiece(Struct, frozen=True, tag_field="type", tag="signature_delta"):
    """The signature of reasoning that is complete."""

    signature: str


class InputPiece(Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    """More of the JSON text of a call's input."""

    partial_json: str


class BlockDelta(Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    """More of a block."""

    index: int
    delta: TextPiece | ThinkingPiece | SignaturePiece | InputPiece


class BlockStop(Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    """A block is complete."""

    index: int


class Ending(Struct, frozen=True):
    """Why the reply ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(Struct, frozen=True, tag_field="type", tag="message_delta"):
    """The end of the reply, with the counts.

    warnings: that reasoning was cut by its budget, which nobody knew when the headers were sent.
    """

    delta: Ending
    usage: MessageUsage
    warnings: tuple[str, ...] | UnsetType = UNSET
    cache_explanation: CacheExplanation | UnsetType = UNSET


class MessageStop(Struct, frozen=True, tag_field="type", tag="message_stop"):
    """The last event."""


class MessageEvent(Struct, frozen=True):
    """One event; the fields beside its type are those of that type."""

    type: str


STREAMED = Streamed("text/event-stream", EVENTS, MessageEvent)


class MessageReply:
    """Encodes the reply to one request.

    max_tokens: of the request. sealed: makes the signature of reasoning. usage: the counts so
    far; None before the first event. They are in the start of the message, where clients show
    them, so that only pings go before the first event.
    """

    stream_type = "text/event-stream"

    def __init__(
        self,
        model: str,
        max_tokens: int,
        request_id: str,
        warnings: list[str],
        sealed: Callable[[str], str],
        usage: Callable[[], Usage | None],
    ):
        """model: as the client wrote it. warnings: those known so far; more may be added."""
        self.id = f"msg_{uuid.uuid4().hex}"
        self.warnings = warnings
        self._model = model
        self._max_tokens = max_tokens
        self._request_id = request_id
        self._sealed = sealed
        self._usage = usage
        self._started = False
        self._index = 0
        self._open: type[BlockOut] | None = None
        self._thought = ""
        self._ended: ChoiceFinished | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """The request's id as this protocol names it, and warnings."""
        return {"Request-Id": self._request_id, **warnings_header(self.warnings)}

    def whole(self, done: Completion) -> bytes:
        """The JSON of a whole reply."""
        self.warnings = list(done.warnings)
        [choice] = done.choices
        blocks: list[BlockOut] = []
        if choice.reasoning:
            blocks.append(ThinkingOut(choice.reasoning, self._sealed(choice.reasoning)))
        if choice.text:
            blocks.append(TextOut(choice.text))
        for call in choice.tool_calls:
            blocks.append(ToolUseOut(call.id, call.name, _input(call.arguments)))
        ending = self._ending(choice.finish_reason, choice.stop, done.usage)
        return msgspec.json.encode(
            MessageOut(
                self.id,
                "assistant",
                self._model,
                tuple(blocks),
                ending.stop_reason,
                ending.stop_sequence,
                MessageUsage.of(done.usage),
                done.cache_explanation or UNSET,
            )
        )

    def opening(self) -> bytes:
        """The start of the message, or a ping if it is too early for that."""
        return self._start() or self.keep_alive()

    def keep_alive(self) -> bytes:
        """A ping."""
        return _framed(Ping())

    def prefilled(self, done: int, total: int) -> bytes:
        """A ping that says how far a long prompt is."""
        return _framed(Ping(Prefill(done, total)))

    def end(self) -> bytes:
        """The end of a complete stream."""
        return _framed(MessageStop())

    def failure(self, failure: Failure) -> bytes:
        """An error as an event."""
        return _framed(MessagesError(ErrorOfMessages.of(failure)))

    def chunks(self, event: Event) -> bytes:
        """The events for one event of the engine."""
        return self._start() + self._chunks(event)

    def _start(self) -> bytes:
        """The start of the message, once its counts are known; later nothing."""
        usage = self._usage()
        if self._started or usage is None:
            return b""
        self._started = True
        counts = MessageUsage.of(usage)
        message = MessageOut(self.id, "assistant", self._model, (), None, None, counts)
        return _framed(MessageStart(message))

    def _chunks(self, event: Event) -> bytes:
        if isinstance(event, ChoiceFinished):
            self._ended = event
            return self._closed()
        if isinstance(event, Finished):
            assert self._ended is not None
            ending = self._ending(self._ended.reason, self._ended.stop, event.usage)
            explained = event.cache_explanation or UNSET
            usage, late = MessageUsage.of(event.usage), event.warnings or UNSET
            return _framed(MessageDelta(ending, usage, late, explained))
        if isinstance(event, ToolCallDelta):
            begun = self._begun(ToolUseOut(event.id, event.name, {})) if event.id else b""
            return begun + (self._piece(InputPiece(event.arguments)) if event.arguments else b"")
        if isinstance(event, ReasoningDelta):
            begun = b"" if self._open is ThinkingOut else self._begun(ThinkingOut("", ""))
            self._thought += event.text
            return begun + self._piece(ThinkingPiece(event.text))
        if not event.text:
            return b""
        begun = b"" if self._open is TextOut else self._begun(TextOut(""))
        return begun + self._piece(TextPiece(event.text))

    def _begun(self, block: BlockOut) -> bytes:
        closed = self._closed()
        self._open = type(block)
        return closed + _framed(BlockStart(self._index, block))

    def _piece(self, piece: TextPiece | ThinkingPiece | SignaturePiece | InputPiece) -> bytes:
        return _framed(BlockDelta(self._index, piece))

    def _closed(self) -> bytes:
        """The end of the block that is open, if one is."""
        if self._open is None:
            return b""
        signed = b""
        if self._open is ThinkingOut:
            signed = self._piece(SignaturePiece(self._sealed(self._thought)))
            self._thought = ""
        self._open = None
        stopped = _framed(BlockStop(self._index))
        self._index += 1
        return signed + stopped

    def _ending(self, reason: FinishReason, stop: str, usage: Usage) -> Ending:
        if reason == "stop":
            return Ending("stop_sequence" if stop else "end_turn", stop or None)
        if reason == "length":
            limited = usage.completion_tokens >= self._max_tokens
            return Ending("max_tokens" if limited else "model_context_window_exceeded", None)
        return Ending("tool_use" if reason == "tool_calls" else "refusal", None)


def _input(arguments: str) -> dict[str, Any]:
    """The input of a call; empty where the model's JSON was cut off."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _framed(event: Struct) -> bytes:
    name = event.__struct_config__.tag
    return f"event: {name}\n".encode() + b"data: " + msgspec.json.encode(event) + b"\n\n"
