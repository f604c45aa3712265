"""Usage of batches: the tokens that the replies to their lines say."""

from __future__ import annotations

import msgspec
from msgspec import Struct


class InputDetails(Struct, frozen=True):
    """Of the tokens of prompts, those that were not computed."""

    cached_tokens: int = 0


class OutputDetails(Struct, frozen=True):
    """Of the tokens of replies, those of reasoning."""

    reasoning_tokens: int = 0


class BatchUsage(Struct, frozen=True):
    """Tokens of all replies so far."""

    input_tokens: int = 0
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int = 0
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int = 0

    def __add__(self, other: BatchUsage) -> BatchUsage:
        cached = self.input_tokens_details.cached_tokens + other.input_tokens_details.cached_tokens
        own, more = self.output_tokens_details, other.output_tokens_details
        return BatchUsage(
            self.input_tokens + other.input_tokens,
            InputDetails(cached),
            self.output_tokens + other.output_tokens,
            OutputDetails(own.reasoning_tokens + more.reasoning_tokens),
            self.total_tokens + other.total_tokens,
        )


class _Details(Struct):
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _Usage(Struct):
    """The fields of all dialects. Anthropic's `input_tokens` leave out what its caches read."""

    prompt_tokens: int = 0
    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    completion_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Body(Struct):
    usage: _Usage | None = None


class _Response(Struct):
    body: _Body


class _Line(Struct):
    response: _Response | None = None


def usage_of(data: bytes) -> BatchUsage:
    """The tokens that a line of an output file says; none if it says none."""
    try:
        line = msgspec.json.decode(data, type=_Line)
    except msgspec.DecodeError:
        return BatchUsage()
    if line.response is None or (said := line.response.body.usage) is None:
        return BatchUsage()
    inputs = said.prompt_tokens_details or said.input_tokens_details or _Details()
    outputs = said.completion_tokens_details or said.output_tokens_details or _Details()
    aside = said.cache_read_input_tokens
    prompt = said.prompt_tokens + said.input_tokens + aside + said.cache_creation_input_tokens
    completion = said.completion_tokens + said.output_tokens
    return BatchUsage(
        prompt,
        InputDetails(inputs.cached_tokens + aside),
        completion,
        OutputDetails(outputs.reasoning_tokens),
        prompt + completion,
    )
