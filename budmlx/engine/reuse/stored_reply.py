"""Stored replies of the response cache: their keys, their bytes, their replay."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import fields

import msgspec

from budmlx import __version__
from budmlx.engine.reply.completion import completion
from budmlx.types import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Request,
    TextDelta,
    Timing,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

FORMAT = 3
"""Raise it when `StoredReply` changes: what older versions kept becomes a miss."""

NOT_IN_KEY = frozenset(
    {"cache", "explain_cache", "given", "breakpoints", "speculation", "prediction", "priority"}
)
"""The fields of a request that say nothing about its answer. All others, new ones too, count."""


class StoredLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A `TokenLogprob`."""

    text: str
    raw: bytes
    logprob: float
    top: tuple[StoredLogprob, ...] = ()

    @classmethod
    def of(cls, entry: TokenLogprob) -> StoredLogprob:
        """The stored form of an event's value."""
        return cls(entry.text, entry.bytes, entry.logprob, tuple(map(cls.of, entry.top)))

    def entry(self) -> TokenLogprob:
        """The event's value."""
        top = tuple(each.entry() for each in self.top)
        return TokenLogprob(self.text, self.raw, self.logprob, top)


class StoredChoice(msgspec.Struct, frozen=True, array_like=True):
    """The text of one choice."""

    text: str
    reason: FinishReason
    logprobs: tuple[StoredLogprob, ...] = ()
    reasoning: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()
    stop: str = ""


class StoredReply(msgspec.Struct, frozen=True, array_like=True):
    """A whole reply. key: the one it was stored under, so that a mixed-up cache is noticed."""

    format: int
    key: str
    choices: tuple[StoredChoice, ...]
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    warnings: tuple[str, ...] = ()

    @property
    def usage(self) -> Usage:
        """The counts of a replay. The prompt counts as cached."""
        prompt = self.prompt_tokens
        return Usage(prompt, self.completion_tokens, prompt, self.reasoning_tokens)

    def encode(self) -> bytes:
        """The bytes of the reply, as msgpack."""
        return msgspec.msgpack.encode(self)


def decode(key: str, raw: bytes) -> StoredReply | None:
    """The reply in these bytes; None if they are not the whole reply of that key."""
    try:
        reply = msgspec.msgpack.decode(raw, type=StoredReply)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return None
    return reply if reply.format == FORMAT and reply.key == key and reply.choices else None


def stored(key: str, events: Sequence[Event]) -> StoredReply | None:
    """The reply of these events; None if it must not be stored, since it was filtered."""
    finished = events[-1]
    assert isinstance(finished, Finished)
    if "content_filter" in finished.reasons:
        return None
    done = completion("", (), events)
    choices = tuple(
        StoredChoice(
            choice.text,
            choice.finish_reason,
            tuple(map(StoredLogprob.of, choice.logprobs)),
            choice.reasoning,
            tuple((call.id, call.name, call.arguments) for call in choice.tool_calls),
            choice.stop,
        )
        for choice in done.choices
    )
    usage = finished.usage
    return StoredReply(
        FORMAT,
        key,
        choices,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.reasoning_tokens,
        finished.warnings,
    )


def replay(reply: StoredReply) -> Iterator[Event]:
    """The events of a stored reply."""
    for number, choice in enumerate(reply.choices):
        if choice.reasoning:
            yield ReasoningDelta(choice.reasoning, number)
        if choice.text or choice.logprobs:
            logprobs = tuple(entry.entry() for entry in choice.logprobs)
            yield TextDelta(choice.text, number, logprobs)
        for index, (call_id, name, arguments) in enumerate(choice.calls):
            yield ToolCallDelta(index, call_id, name, arguments, number)
        yield ChoiceFinished(choice.reason, number, choice.stop)
    reasons = tuple(choice.reason for choice in reply.choices)
    yield Finished(
        reasons, reply.usage, Timing(0.0, 0.0, 0.0), cached=True, warnings=reply.warnings
    )


def reply_key(request: Request, ids: Sequence[int], salt: str) -> str:
    """SHA-256, hexadecimal, over all that determines the answer.

    ids: of the rendered prompt. salt: identifies the model and the plugins that answer.
    """
    values = [
        (field.name, getattr(request, field.name))
        for field in fields(Request)
        if field.name not in NOT_IN_KEY
    ]
    # Callers may pass values in mappings that no serialisation takes, so it is their repr.
    text = repr((FORMAT, __version__, salt, values, list(ids)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
