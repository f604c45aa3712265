"""The values that cross rings: requests, sampling parameters, events, results.

Everything here is frozen and needs only the standard library, so that the server, the
engine, the core and plugins share one vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from budmlx.errors import InvalidRequestError

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text inside a message whose content is a list of parts."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call that an assistant message carries; `arguments` is a JSON string."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str | tuple[TextPart, ...] = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The content as one string: parts are joined without a separator."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (0, 2**31 - 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "repetition_penalty": (0.01, 100),
    "repetition_window": (0, 2**31 - 1),
    "seed": (-(2**63), 2**63 - 1),
    "max_tokens": (1, 2**63 - 1),
    "min_tokens": (-1, 2**63 - 1),
    "logprobs": (0, 20),
}
"""Inclusive bounds of the numeric sampling parameters."""

MAX_BIASES = 1024
MAX_BIAS = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when generation ends.

    temperature: 0 is greedy; 0 to 2. Filters look at the distribution before temperature.
    top_p: nucleus mass; 1 keeps everything. top_k: most likely tokens kept; 0 keeps all.
    min_p: drop tokens below this share of the most likely one; 0 keeps all.
    typical_p: mass of the locally typical set; 1 keeps everything.
    frequency_penalty, presence_penalty: taken off the logits of generated tokens, per
    occurrence and once; -2 to 2. repetition_penalty: divides the positive and multiplies
    the negative logits of prompt and generated tokens; 1 changes nothing.
    repetition_window: how many last tokens that penalty looks at; 0 is all.
    logit_bias: pairs of token id and value, -100 (ban) to 100.
    seed: 64-bit; the same seed draws the same random numbers whatever shares the batch.
    max_tokens: None means up to the context; larger values are clamped to the context.
    min_tokens: neither end of sequence nor stops come before so many; -1: the context's end.
    stop: strings that end the text; they are not part of it.
    stop_token_ids: ids that end generation like the model's own end-of-sequence ids.
    ignore_eos: the model's own end-of-sequence ids do not end generation.
    logprobs: report the logprob of each token and of so many most likely ones; None: don't.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Raise InvalidRequestError, naming the parameter, when one is out of range."""
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidRequestError(
                    f"{name} must be between {low} and {high}, not {value}.", param=name
                )
        if not all(self.stop):
            raise InvalidRequestError("A stop string must not be empty.", param="stop")
        if len(self.logit_bias) > MAX_BIASES or not all(
            -MAX_BIAS <= value <= MAX_BIAS for _, value in self.logit_bias
        ):
            raise InvalidRequestError(
                f"logit_bias takes up to {MAX_BIASES} values between -100 and 100.",
                param="logit_bias",
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequestError(
                "min_tokens must not be larger than max_tokens.", param="min_tokens"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One generation. Exactly one of `messages` and `prompt` is given.

    prompt: raw text, or token ids, used as they are without a chat template.
    n: how many choices to generate; they share one prefill.
    chat_template_kwargs: extra variables for the template; only allow-listed names pass.
    """

    messages: tuple[Message, ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    sampling: SamplingParams = SamplingParams()
    n: int = 1
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def characters(self) -> int:
        """Size of the text, to judge what tokenizing it costs."""
        if self.messages is not None:
            return sum(len(message.text) for message in self.messages)
        return len(self.prompt or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What the engine knows of a loaded model.

    context_length: most tokens a sequence may have, prompt and completion together.
    vocab_size: width of the logits; a token id outside it must never reach the core.
    batchable: False when the model's cache cannot be merged, so that it runs row by row.
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


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one request went, in seconds."""

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
class ChoiceFinished:
    """The last event of one choice."""

    reason: FinishReason
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The terminal event of a request that went well. reasons: one for each choice."""

    reasons: tuple[FinishReason, ...]
    usage: Usage
    timing: Timing

    @property
    def reason(self) -> FinishReason:
        """Why the first choice ended."""
        return self.reasons[0]


Event = TextDelta | ChoiceFinished | Finished
"""What a stream yields. A failed request raises instead, which is its terminal event."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the texts of a reply."""

    text: str
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole reply. `warnings` name parameters, or parts of them, without effect."""

    choices: tuple[Choice, ...]
    usage: Usage
    timing: Timing
    model: str
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first choice ended."""
        return self.choices[0].finish_reason

    def __str__(self) -> str:
        return self.text
