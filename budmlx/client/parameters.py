"""The parameters of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


class Parameters(TypedDict, total=False):
    """The parameters of a request; the README lists the values. None means not given."""

    adapter: str | None
    cache: bool | Literal["bypass"] | Mapping[str, float] | None
    cache_salt: str | None
    chat_template_kwargs: Mapping[str, Any] | None
    clear_thinking: bool | None
    disable_reasoning: bool | None
    explain_cache: bool | None
    frequency_penalty: float | None
    function_call: str | Mapping[str, Any] | None
    functions: Sequence[Mapping[str, Any]] | None
    ignore_eos: bool | None
    logit_bias: Mapping[str, float] | None
    logits_processors: Sequence[Mapping[str, Any]] | None
    logprobs: bool | None
    max_completion_tokens: int | None
    max_reasoning_tokens: int | None
    max_tokens: int | None
    min_completion_tokens: int | None
    min_p: float | None
    min_tokens: int | None
    n: int | None
    parallel_tool_calls: bool | None
    prediction: Mapping[str, Any] | None
    presence_penalty: float | None
    priority: Literal["interactive", "background"] | None
    random_seed: int | None
    reasoning_effort: str | None
    reasoning_format: str | None
    repetition_penalty: float | None
    repetition_window: int | None
    response_format: Mapping[str, Any] | None
    sampler: Mapping[str, Any] | None
    seed: int | None
    service_tier: str | None
    speculation: bool | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    stream_options: Mapping[str, bool] | None
    temperature: float | None
    tool_choice: str | Mapping[str, Any] | None
    tools: Sequence[Mapping[str, Any]] | None
    top_k: int | None
    top_logprobs: int | None
    top_p: float | None
    typical_p: float | None
    user: str | None
