"""Shapes of replies: the response, its items and the events of its stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from budmlx.types import CacheExplanation

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class TokenChance(Struct, frozen=True):
    """One of the most likely tokens at a place."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class TextLogprob(Struct, frozen=True):
    """A token of the text."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[TokenChance, ...]


class OutputText(Struct, frozen=True, tag_field="type", tag="output_text"):
    """Text of a message."""

    text: str
    annotations: tuple[str, ...] = ()
    logprobs: Sequence[TextLogprob] = ()


class ReasoningText(Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    """Text of reasoning."""

    text: str


class SummaryText(Struct, frozen=True, tag_field="type", tag="summary_text"):
    """Text of reasoning, where a summary of it was asked for."""

    text: str


class ReasoningItem(Struct, frozen=True, tag_field="type", tag="reasoning"):
    """Reasoning. encrypted_content: what to send back, so that the model sees it again."""

    id: str
    summary: tuple[SummaryText, ...] = ()
    content: tuple[ReasoningText, ...] = ()
    encrypted_content: str | None = None
    status: ItemStatus = "in_progress"


class OutputMessage(Struct, frozen=True, tag_field="type", tag="message"):
    """Text of the reply."""

    id: str
    role: Literal["assistant"] = "assistant"
    status: ItemStatus = "in_progress"
    content: tuple[OutputText, ...] = ()


class FunctionCallItem(Struct, frozen=True, tag_field="type", tag="function_call"):
    """A call of a function. arguments: the text of a JSON object."""

    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: ItemStatus = "in_progress"
    namespace: str | UnsetType = UNSET


class CustomCallItem(Struct, frozen=True, tag_field="type", tag="custom_tool_call"):
    """A call of a custom tool."""

    id: str
    call_id: str
    name: str
    input: str = ""
    status: ItemStatus = "in_progress"
    namespace: str | UnsetType = UNSET


OutputItem = ReasoningItem | OutputMessage | FunctionCallItem | CustomCallItem


class InputDetails(Struct, frozen=True):
    """Where the tokens of the input came from."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(Struct, frozen=True):
    """What the tokens of the output are."""

    reasoning_tokens: int


class ResponseUsage(Struct, frozen=True):
    """Token counts."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseError(Struct, frozen=True):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(Struct, frozen=True):
    """Why a response ends early."""

    reason: Literal["max_output_tokens", "content_filter"]


class Response(Struct, frozen=True):
    """A response: what was asked for, and what came of it.

    warnings: about what is known at its end alone; the others are in a header.
    """

    id: str
    object: Literal["response"]
    created_at: int
    status: Status
    background: bool
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: Mapping[str, str]
    model: str
    output: tuple[OutputItem, ...]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: Mapping[str, Any]
    service_tier: str
    store: bool
    temperature: float
    text: Mapping[str, Any]
    tool_choice: str | Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]]
    top_p: float
    truncation: str
    usage: ResponseUsage | None
    user: str | None
    warnings: Sequence[str] | UnsetType = UNSET
    cached: bool | UnsetType = UNSET
    cache_explanation: CacheExplanation | UnsetType = UNSET


Part = OutputText | SummaryText | ReasoningText


class Prefill(Struct, frozen=True):
    """How far a long prompt is, in tokens."""

    completed: int
    total: int


class ResponseEvent(Struct):
    """An event of a stream; which fields it has depends on its type.

    prefill: beside the protocol, while a long prompt is computed.
    """

    type: str
    sequence_number: int = 0
    response: Response | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    summary_index: int | UnsetType = UNSET
    item: OutputItem | UnsetType = UNSET
    part: Part | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    logprobs: Sequence[TextLogprob] | UnsetType = UNSET
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    input: str | UnsetType = UNSET
    prefill: Prefill | UnsetType = UNSET
