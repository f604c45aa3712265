"""The replies to chats and texts: lines of JSON, the last of which says how it went."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from budmlx.engine.engine import Engine
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
    Request,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
)

NDJSON = "application/x-ndjson"
NANOSECONDS = 10**9
LINE_ENDS = "\x85\u2028\u2029"
"""Characters at which `str.splitlines`, and httpx with it, ends lines, and which JSON may hold."""

Reason = Literal["stop", "length", "load", "unload"]
NoText = Literal["load", "unload", "stop"]
"""What became of a request without anything to be answered: `stop` if nothing was done."""


class OllamaError(Struct, frozen=True):
    """What is wrong."""

    error: str


class LineTopLogprob(Struct, frozen=True):
    """One of the most likely tokens at a place."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class LineLogprob(Struct, frozen=True):
    """A token of the reply."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[LineTopLogprob, ...]


class LineFunction(Struct, frozen=True):
    """A function that is called. index: which call of the reply."""

    index: int
    name: str
    arguments: dict[str, Any]


class LineCall(Struct, frozen=True):
    """A call."""

    id: str
    function: LineFunction


class LineMessage(Struct, frozen=True, omit_defaults=True):
    """What a line adds to the message; in a whole reply, all of it."""

    role: Literal["assistant"]
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: tuple[LineCall, ...] | UnsetType = UNSET


class Prefill(Struct, frozen=True):
    """How far a long prompt is, in tokens."""

    completed: int
    total: int


class Line(Struct, frozen=True, kw_only=True):
    """The fields of all lines. Durations are in nanoseconds, and in the last line alone.

    load_duration: in the queue, or while the model was loaded. prompt_eval_count: tokens of the
    prompt, those included whose KV was reused. cached: the reply is that of an equal request.
    cache_explanation: if the request asked for it. prefill: in lines before the first text.
    warnings: that reasoning was cut by its budget; in the last line of a stream, whose headers
    came too early for it.
    """

    model: str
    created_at: str
    done: bool
    done_reason: Reason | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    logprobs: tuple[LineLogprob, ...] | UnsetType = UNSET
    prefill: Prefill | UnsetType = UNSET
    warnings: tuple[str, ...] | UnsetType = UNSET
    cached: bool | UnsetType = UNSET
    cache_explanation: CacheExplanation | UnsetType = UNSET


class ChatLine(Line, frozen=True, kw_only=True):
    """A whole reply to a chat, or one line of a stream."""

    message: LineMessage


class GenerateLine(Line, frozen=True, kw_only=True):
    """A whole reply to a text, or one line of a stream.

    context: token ids of all that was said, if the request had some; in the last line.
    """

    response: str
    thinking: str | UnsetType = UNSET
    context: tuple[int, ...] | UnsetType = UNSET


LINES = (
    'Lines, each the JSON of a {}. An error after the first is the last line: `{{"error": ...}}`.'
)
CHAT_LINES = Streamed(NDJSON, LINES.format("ChatLine"), ChatLine)
GENERATE_LINES = Streamed(NDJSON, LINES.format("GenerateLine"), GenerateLine)


class ReplyBuilder(ABC):
    """Encodes the reply to one request.

    model: its name as the client wrote it. warnings: known so far; `loaded` adds to this list.
    logprobs: report them.
    """

    stream_type = NDJSON
    id = ""

    def __init__(self, model: str, warnings: list[str], *, logprobs: bool):
        self._model = model
        self._warnings = warnings
        self._logprobs = logprobs

    def loaded(self, engine: Engine, request: Request) -> Request:
        """Learn what the loaded model says of the request; returns the one to run."""
        self._warnings += engine.warnings(request)
        return request

    @property
    def headers(self) -> Mapping[str, str]:
        """Warnings that are known by now."""
        return warnings_header(self._warnings)

    def opening(self) -> bytes:
        """Nothing: clients take each line for a piece of the reply."""
        return b""

    def keep_alive(self) -> bytes:
        """A line without text. Blank ones are errors for clients."""
        return self._line()

    def prefilled(self, done: int, total: int) -> bytes:
        """A line without text that says how far a long prompt is."""
        return self._line(prefill=Prefill(done, total))

    def end(self) -> bytes:
        """Nothing: the last event's line says that all is done."""
        return b""

    def failure(self, failure: Failure) -> bytes:
        """An error as a line."""
        return line_of(OllamaError(failure.message))

    def chunks(self, event: Event) -> bytes:
        """The line for one event of the engine."""
        match event:
            case TextDelta():
                return self._line(event.text, logprobs=self._entries(event.logprobs))
            case ReasoningDelta():
                return self._line(thinking=event.text)
            case ToolCallDelta():
                call = ToolCall(event.id, event.name, event.arguments)
                return self._line(calls=(_call(event.index, call),))
            case ChoiceFinished():
                return b""
            case Finished():
                late = event.warnings or UNSET
                return self._line(warnings=late, **_outcome(event.reason, event), **self._closing())

    def whole(self, done: Completion) -> bytes:
        """The JSON of a whole reply."""
        self._warnings = [*done.warnings]
        choice = done.choices[0]
        return self._line(
            choice.text,
            thinking=choice.reasoning,
            calls=tuple(_call(index, call) for index, call in enumerate(choice.tool_calls)),
            logprobs=self._entries(choice.logprobs),
            **_outcome(choice.finish_reason, done),
            **self._closing(),
        )

    def resident(self, reason: NoText) -> bytes:
        """The JSON of a reply to a request without anything to be answered."""
        return self._line(done=True, done_reason=reason)

    def _closing(self) -> dict[str, Any]:
        """Further fields of the last line."""
        return {}

    def _line(
        self,
        text: str = "",
        thinking: str = "",
        calls: Sequence[LineCall] = (),
        **fields: Any,
    ) -> bytes:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        common = {"model": self._model, "created_at": now, "done": False, **fields}
        return line_of(self._of(text, thinking, calls, common))

    def _entries(self, entries: Sequence[TokenLogprob]) -> tuple[LineLogprob, ...] | UnsetType:
        if not self._logprobs:
            return UNSET
        return tuple(
            LineLogprob(
                entry.text,
                entry.logprob,
                tuple(entry.bytes),
                tuple(LineTopLogprob(t.text, t.logprob, tuple(t.bytes)) for t in entry.top),
            )
            for entry in entries
        )

    @abstractmethod
    def _of(
        self, text: str, thinking: str, calls: Sequence[LineCall], common: dict[str, Any]
    ) -> Struct: ...


class ChatLines(ReplyBuilder):
    """Encodes the reply to a chat."""

    def _of(
        self, text: str, thinking: str, calls: Sequence[LineCall], common: dict[str, Any]
    ) -> Struct:
        message = LineMessage("assistant", text, thinking or UNSET, tuple(calls) or UNSET)
        return ChatLine(message=message, **common)


class GenerateLines(ReplyBuilder):
    """Encodes the reply to a text, which has no calls, since there are no tools."""

    def _of(
        self, text: str, thinking: str, calls: Sequence[LineCall], common: dict[str, Any]
    ) -> Struct:
        return GenerateLine(response=text, thinking=thinking or UNSET, **common)


def _outcome(reason: FinishReason, done: Finished | Completion) -> dict[str, Any]:
    """The fields of a last line."""
    usage, timing = done.usage, done.timing
    return {
        "done": True,
        "done_reason": "length" if reason == "length" else "stop",
        "total_duration": nanoseconds(timing.total),
        "load_duration": nanoseconds(timing.queue),
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": nanoseconds(timing.prompt),
        "eval_count": usage.completion_tokens,
        "eval_duration": nanoseconds(timing.completion),
        "cached": done.cached or UNSET,
        "cache_explanation": done.cache_explanation or UNSET,
    }


def line_of(value: Struct) -> bytes:
    """The JSON of a value as a line for readers that end lines where Unicode does, too."""
    line = msgspec.json.encode(value)
    if not line.isascii():
        for character in LINE_ENDS:
            line = line.replace(character.encode(), f"\\u{ord(character):04x}".encode())
    return line + b"\n"


def nanoseconds(seconds: float) -> int:
    """A duration as clients take it: whole nanoseconds."""
    return round(seconds * NANOSECONDS)


def _call(index: int, call: ToolCall) -> LineCall:
    """A call. Clients take arguments as an object only: a broken text of them stands in one."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        arguments = {"arguments": call.arguments}
    return LineCall(call.id, LineFunction(index, call.name, arguments))
