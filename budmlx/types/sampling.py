"""Sampling parameters and the cache policy of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, get_args, get_type_hints

from budmlx.errors import InvalidRequestError

MAX_BIASES = 1024
MAX_BIAS = 100.0
MAX_TTL = 2.0**31


@dataclass(frozen=True, slots=True)
class Param:
    """The declaration of a sampling parameter, beside its type and default.

    sentence: what it does, for help texts and documentation. low, high: inclusive bounds of a
    number.
    """

    sentence: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class PluginChoice:
    """A sampler or logits processor of a plugin, chosen by name. options: as JSON."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """The parameters by which tokens are chosen and generation ends.

    A field is the only place that says what a parameter takes: wire models, the OpenAPI
    document, command-line flags and the documentation read its declaration.
    """

    temperature: Annotated[
        float,
        Param(
            "How random the choice of tokens is; 0 always takes the most likely one. The filters "
            "look at the distribution before temperature.",
            0,
            2,
        ),
    ] = 1.0
    top_p: Annotated[
        float,
        Param("Keep the most likely tokens of this total probability; 1 keeps all.", 0, 1),
    ] = 1.0
    top_k: Annotated[
        int,
        Param("Keep this many of the most likely tokens; 0 keeps all.", 0, 2**31 - 1),
    ] = 0
    min_p: Annotated[
        float,
        Param("Drop tokens below this share of the most likely one; 0 keeps all.", 0, 1),
    ] = 0.0
    typical_p: Annotated[
        float,
        Param("Keep the locally typical tokens of this total probability; 1 keeps all.", 0, 1),
    ] = 1.0
    frequency_penalty: Annotated[
        float,
        Param("Taken off a token's logit for each time it was generated.", -2, 2),
    ] = 0.0
    presence_penalty: Annotated[
        float,
        Param("Taken off a token's logit once it was generated.", -2, 2),
    ] = 0.0
    repetition_penalty: Annotated[
        float,
        Param(
            "Divides the positive and multiplies the negative logits of the tokens of prompt and "
            "reply; 1 changes nothing.",
            0.01,
            100,
        ),
    ] = 1.0
    repetition_window: Annotated[
        int,
        Param("How many of the last tokens the repetition penalty looks at; 0: all.", 0, 2**31 - 1),
    ] = 0
    logit_bias: Annotated[
        tuple[tuple[int, float], ...],
        Param(
            "Values that are added to the logits of token ids; -100 bans a token, unless a form "
            "allows no other, 100 all others."
        ),
    ] = ()
    seed: Annotated[
        int | None,
        Param(
            "The same seed draws the same random numbers, whatever else is running.",
            -(2**63),
            2**63 - 1,
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        Param("Most tokens of a reply; clamped to the context.", 1, 2**63 - 1),
    ] = None
    min_tokens: Annotated[
        int,
        Param(
            "Neither the model's end of sequence nor a stop comes before this many tokens; -1: "
            "the context's end.",
            -1,
            2**63 - 1,
        ),
    ] = 0
    max_reasoning_tokens: Annotated[
        int | None,
        Param(
            "Most tokens of reasoning; the model's own closing tokens end it then, and the answer "
            "follows. 0: none.",
            0,
            2**63 - 1,
        ),
    ] = None
    stop: Annotated[
        tuple[str, ...],
        Param("Texts that end a reply and are not part of it."),
    ] = ()
    stop_token_ids: Annotated[
        tuple[int, ...],
        Param("Token ids that end a reply as the model's own end-of-sequence ids do."),
    ] = ()
    ignore_eos: Annotated[
        bool,
        Param("The model's own end-of-sequence ids do not end a reply."),
    ] = False
    logprobs: Annotated[
        int | None,
        Param(
            "Report the log probability of each token, and of this many of the most likely ones.",
            0,
            20,
        ),
    ] = None
    sampler: Annotated[
        PluginChoice | None,
        Param("A plugin's sampler, which draws from what temperature and filters left."),
    ] = None
    logits_processors: Annotated[
        tuple[PluginChoice, ...],
        Param(
            "Logits processors of plugins, which change the logits before sampling, in this order."
        ),
    ] = ()

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
                f"logit_bias takes up to {MAX_BIASES} values between {-MAX_BIAS:g} and "
                f"{MAX_BIAS:g}.",
                param="logit_bias",
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequestError(
                "min_tokens must not be larger than max_tokens.", param="min_tokens"
            )


def _declarations() -> dict[str, Param]:
    hints = get_type_hints(SamplingParams, include_extras=True)
    found = {}
    for each in fields(SamplingParams):
        _, found[each.name] = get_args(hints[each.name])
    return found


PARAMETERS: Mapping[str, Param] = _declarations()
"""The declarations of the fields of `SamplingParams`, by name."""

RANGES: dict[str, tuple[float, float]] = {
    name: (param.low, param.high)
    for name, param in PARAMETERS.items()
    if param.low is not None and param.high is not None
}
"""Inclusive bounds of the numeric sampling parameters."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Permissions of the response cache for one request.

    read: a cached response may be the answer. write: the reply may be kept, for `ttl` seconds.
    """

    read: bool = True
    write: bool = True
    ttl: float | None = None

    @classmethod
    def of(cls, value: object) -> CachePolicy:
        """Make a policy of a boolean, `"bypass"`, or `{"ttl": seconds}`.

        Raises:
            InvalidRequestError: the value is something else.
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
