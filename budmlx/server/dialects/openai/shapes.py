"""The shapes of responses to `POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from budmlx.types import CacheExplanation, FinishReason

WireReason = FinishReason | Literal["error"]
"""error: stands for content_filter, for a client that does not know that."""


class PromptTokensDetails(Struct, frozen=True):
    """How the prompt's tokens were come by."""

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
