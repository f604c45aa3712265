"""The parameters of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from budmlx.errors import InvalidRequestError

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
MAX_TTL = 2.0**31


@dataclass(frozen=True, slots=True)
class PluginChoice:
    """A sampler or logits processor of a plugin, chosen by name. options: as JSON."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


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
    sampler: draws the tokens instead of us, from what temperature and filters left.
    logits_processors: change the logits before that, in this order.
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
    sampler: PluginChoice | None = None
    logits_processors: tuple[PluginChoice, ...] = ()

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


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What the response cache may do for one request.

    read: a kept reply may be the answer. write: the reply may be kept, for `ttl` seconds.
    """

    read: bool = True
    write: bool = True
    ttl: float | None = None

    @classmethod
    def of(cls, value: object) -> CachePolicy:
        """From what callers write: a boolean, `"bypass"`, or `{"ttl": seconds}`.

        Raises:
            InvalidRequestError: it is something else.
        """
        if isinstance(value, CachePolicy):
            return value
        if isinstance(value, bool):
            return cls(read=value, write=value)
        if value == "bypass":
            return cls(read=False)
        if isinstance(value, Mapping) and value.keys() == {"ttl"}:
            ttl = value["ttl"]
            if isinstance(ttl, int | float) and not isinstance(ttl, bool) and 0 < ttl <= MAX_TTL:
                return cls(ttl=float(ttl))
        raise InvalidRequestError(
            'cache must be true, false, "bypass" or {"ttl": seconds}.', param="cache"
        )
