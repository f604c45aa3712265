"""Events of a request, and the counts and times that come with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request.

    cached_tokens: those of the prompt that were not computed. reasoning_tokens: those of the
    completion that were reasoning. written_tokens: those of the prompt that were computed, and
    stored for prompts that begin alike.
    drafted_tokens: those that were guessed and checked. accepted_tokens: those of them that were
    what the model drew. accepted_prediction_tokens, rejected_prediction_tokens: those that were
    drafted from the request's prediction, and were or were not what the model drew.
    drafts: by what they were of, its name, how many were checked, and their tokens and those
    accepted.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    written_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    drafts: tuple[tuple[str, int, int, int], ...] = ()

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of one request's phases, in seconds."""

    queue: float
    prompt: float
    completion: float

    @property
    def total(self) -> float:
        """From submission to the last token."""
        return self.queue + self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its logprob in the model's own distribution.

    text: what the token alone decodes to. bytes: its UTF-8 bytes, perhaps part of a character.
    top: the most likely tokens at this place, best first, without their own `top`.
    """

    text: str
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of a choice. It never ends inside a character or a possible stop string.

    logprobs: of the tokens that this text is made of, if they were asked for.
    """

    text: str
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """New text of a choice's reasoning."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A tool call, or a piece of one.

    index: which call of the choice. id, name: of the call; empty in pieces after the first.
    arguments: text of a JSON object, or a piece of it.
    """

    index: int
    id: str
    name: str
    arguments: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """The last event of one choice. stop: the stop string that ended it; empty if none did."""

    reason: FinishReason
    choice: int = 0
    stop: str = ""


MissReason = Literal[
    "complete", "new", "differs", "retokenised", "evicted", "other_namespace", "never_seen", "off"
]


@dataclass(frozen=True, slots=True)
class CacheExplanation:
    """An explanation of how much of a prompt's KV was reused, and why not more.

    tier: where it was. reason: all of it was stored (complete); what was stored ends there
    (new); the prompt most like it continues differently (differs), or with the same text in
    other tokens (retokenised); it was stored once (evicted), is stored for another cache_salt
    (other_namespace), no prompt like it came before (never_seen), or nothing is kept (off).
    token: the first token of the prompt that was not reused for that reason. text: what it
    stands for. message: the message that it belongs to, if that is known.
    """

    matched_tokens: int
    prompt_tokens: int
    tier: Literal["memory", "disk", "none"]
    reason: MissReason
    token: int | None = None
    text: str = ""
    message: int | None = None


def _no_reasons() -> Mapping[MissReason, int]:
    return MappingProxyType(dict.fromkeys(get_args(MissReason), 0))


@dataclass(frozen=True, slots=True)
class PrefixCacheStats:
    """Counts of the KV that prompts reused since the engine was made, and of reasons for no more.

    Requests that finished are counted, each once, however many choices it had; those that
    failed or were cancelled are not, nor are those that a cached response answered.
    prompt_tokens: of their prompts. memory_tokens, disk_tokens: those of them that were
    reused from there. reasons: requests by `CacheExplanation.reason`; all reasons are there.
    """

    prompt_tokens: int = 0
    memory_tokens: int = 0
    disk_tokens: int = 0
    reasons: Mapping[MissReason, int] = field(default_factory=_no_reasons)

    @property
    def requests(self) -> int:
        """Requests that were counted."""
        return sum(self.reasons.values())

    @property
    def cached_tokens(self) -> int:
        """The sum of `Usage.cached_tokens` of all requests."""
        return self.memory_tokens + self.disk_tokens


@dataclass(frozen=True, slots=True)
class Finished:
    """The terminal event of a request that went well. reasons: one for each choice.

    cached: the reply is that of an equal request, from the response cache or while both ran.
    cache_explanation: if the request asked for it. warnings: what became of the reply that its
    caller may not expect.
    """

    reasons: tuple[FinishReason, ...]
    usage: Usage
    timing: Timing
    cached: bool = False
    cache_explanation: CacheExplanation | None = None
    warnings: tuple[str, ...] = ()

    @property
    def reason(self) -> FinishReason:
        """The finish reason of the first choice."""
        return self.reasons[0]


Event = TextDelta | ReasoningDelta | ToolCallDelta | ChoiceFinished | Finished
"""An item of a stream. A failed request raises instead, which is its terminal event."""
