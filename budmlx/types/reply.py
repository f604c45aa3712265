"""Whole replies, and the description of a loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from budmlx.types.events import CacheExplanation, FinishReason, Timing, TokenLogprob, Usage
from budmlx.types.request import ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The description of a loaded model.

    context_length: most tokens a sequence may have, prompt and completion together.
    vocab_size: width of the logits; a token id outside it must never reach the core.
    batchable: False when the model's cache cannot be merged, so that it runs row by row.
    generates: False where it makes vectors of texts alone.
    needs_checkpoints: prompts can continue only from places where a whole state was kept.
    speculation: what `--speculation` says; unsupported if its caches cannot take tokens back.
    draft_model: the name of what drafts for it, or empty.
    numbers: what was chosen for the device, such as its `prefill_chunk`.
    """

    name: str
    path: str
    model_type: str
    context_length: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    batchable: bool
    fingerprint: str
    created: int
    generates: bool = True
    needs_checkpoints: bool = False
    speculation: str = "off"
    draft_model: str = ""
    numbers: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that requests may name. path: of its directory. nbytes: of its matrices.

    digest: SHA-256 of its files, in hexadecimal.
    """

    name: str
    path: str
    digest: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a request would take, if it were sent now. Numbers are tokens where nothing is said.

    cached_tokens: of the prompt, those whose KV is in memory. max_tokens: most of the reply that
    there is room for. fits: memory holds the prompt and a reply; None if nobody knows. running,
    waiting: requests. expected_wait: seconds to the first token, as those of late went; None if
    there were none.
    """

    prompt_tokens: int
    cached_tokens: int
    max_tokens: int
    fits: bool | None
    running: int
    waiting: int
    expected_wait: float | None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers of a reply.

    parsed: the content as an object, if the request gave a model class for it.
    stop: the stop string that ended it; empty if none did.
    """

    text: str
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    parsed: Any = None
    stop: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole reply. `warnings` name parameters, or parts of them, without effect, and tell what
    became of the reply that its caller may not expect.

    cached, cache_explanation: see `Finished`.
    """

    choices: tuple[Choice, ...]
    usage: Usage
    timing: Timing
    model: str
    warnings: tuple[str, ...] = ()
    cached: bool = False
    cache_explanation: CacheExplanation | None = None

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text

    @property
    def finish_reason(self) -> FinishReason:
        """The finish reason of the first choice."""
        return self.choices[0].finish_reason

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls of the first choice."""
        return self.choices[0].tool_calls

    @property
    def reasoning(self) -> str:
        """The reasoning of the first choice."""
        return self.choices[0].reasoning

    @property
    def parsed(self) -> Any:
        """The first choice's content as an object of the class given as `response_format`."""
        return self.choices[0].parsed

    def __str__(self) -> str:
        return self.text
