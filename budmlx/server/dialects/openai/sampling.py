"""What requests for chats and for completions have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.openai.body import Body
from budmlx.server.dialects.openai.declared import SCALARS, described, with_scalars, within
from budmlx.server.dialects.openai.messages import Int, WireModel
from budmlx.server.dialects.openai.params import Extras, beyond
from budmlx.types import (
    MAX_BIAS,
    MAX_BIASES,
    CachePolicy,
    PluginChoice,
    SamplingParams,
)

MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_CHOICES = 16
MAX_PROCESSORS = 16

OUTSIDE = "Ids outside the vocabulary are ignored and listed in `warnings`."

TokenId = Annotated[Int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]
Int64 = Annotated[Int, Field(ge=-(2**63), lt=2**63)]


def _cache(value: Any) -> CachePolicy:
    try:
        return CachePolicy.of(value)
    except InvalidRequestError:
        expected = 'Input should be true, false, "bypass" or {"ttl": seconds}'
        raise PydanticCustomError("cache", expected) from None


CacheOption = Annotated[CachePolicy, PlainValidator(_cache)]

STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS}
Stops = Annotated[
    list[str],
    WithJsonSchema({"anyOf": [STOP, {"type": "array", "maxItems": MAX_STOPS, "items": STOP}]}),
]
Biases = Annotated[
    dict[str, Bias],
    Field(max_length=MAX_BIASES),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_BIASES,
            "propertyNames": {"pattern": "^-?[0-9]{1,19}$"},
            "additionalProperties": {"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS},
        }
    ),
]


class NamedChoice(WireModel):
    """A sampler or logits processor of a plugin; the other fields are its options."""

    name: str

    def to_choice(self) -> PluginChoice:
        """The same choice as a plain value."""
        return PluginChoice(self.name, dict(self.model_extra or {}))


class StreamOptions(WireModel):
    """How a stream tells things. incremental_tool_calls: arguments come piece by piece."""

    include_usage: bool = False
    incremental_tool_calls: bool | None = None


@with_scalars
class Scalars(Body):
    """The sampling parameters that have the same form on the wire as in `SamplingParams`."""


class GenerationRequest(Scalars):
    """The fields of every body that asks for generated text.

    Sampling parameters stand here where the wire has another form or range for them.
    """

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[Annotated[Int, Field(ge=1)] | None, described("max_tokens")] = None
    top_k: Annotated[Int, Field(ge=-1, lt=2**31), described("top_k", "-1 is the same as 0.")] = 0
    logit_bias: Annotated[Biases, described("logit_bias", OUTSIDE)] = {}
    seed: Annotated[Int64 | None, described("seed")] = None
    random_seed: Int64 | None = None
    n: Annotated[Int, Field(ge=1, le=MAX_CHOICES)] = 1
    stop: Annotated[Stops, described("stop")] = []
    stop_token_ids: Annotated[
        list[TokenId], Field(max_length=MAX_STOPS), described("stop_token_ids")
    ] = []
    min_tokens: Annotated[Int, within("min_tokens"), described("min_tokens")] = 0
    sampler: Annotated[NamedChoice | None, described("sampler")] = None
    logits_processors: Annotated[
        list[NamedChoice], Field(max_length=MAX_PROCESSORS), described("logits_processors")
    ] = []
    response_format: Any = None
    service_tier: str | None = None
    cache: CacheOption | None = None
    cache_salt: Annotated[str, Field(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    explain_cache: bool = False

    @field_validator("logit_bias")
    @classmethod
    def _check_ids(cls, bias: dict[str, float]) -> dict[str, float]:
        # int() also takes spaces, underscores and other scripts' digits.
        if not all(re.fullmatch(r"-?[0-9]{1,19}", token) for token in bias):
            raise PydanticCustomError("token_id", "Keys should be token ids")
        return bias

    @field_validator("stop", mode="before")
    @classmethod
    def _check_stop(cls, stop: Any) -> list[str]:
        stops = [stop] if isinstance(stop, str) else stop
        if (
            not isinstance(stops, list)
            or len(stops) > MAX_STOPS
            or not all(isinstance(text, str) and 0 < len(text) <= MAX_STOP_CHARS for text in stops)
        ):
            raise PydanticCustomError(
                "stop",
                f"Input should be a string or up to {MAX_STOPS} strings, "
                f"each of 1 to {MAX_STOP_CHARS} characters",
            )
        return stops

    def extras(self) -> Extras:
        """The fields that nothing here knows, with their places."""
        found = [*super().extras()]
        if self.stream_options is not None and self.stream_options.model_extra:
            found.append((("stream_options",), self.stream_options.model_extra))
        return [*found, *_beyond_format(self.response_format)]

    def overridden(self) -> Iterator[str]:
        """A warning for each field that another one goes before, if they differ."""
        return self.other_name("random_seed", "seed")

    def review(self, *, strict: bool, streaming: bool = False) -> list[str]:
        """Warnings about what has no effect. Raises InvalidRequestError, see `params.review`."""
        warnings = super().review(strict=strict)
        if self.stream_options is not None and not streaming:
            warnings.append("`stream_options` has no effect without `stream`.")
        return warnings

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk for the usage alone."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(
        self, *, max_tokens: int | None, min_tokens: int, logprobs: int | None
    ) -> SamplingParams:
        """The sampling parameters, given those that dialects name differently.

        Raises InvalidRequestError for combinations.
        """
        scalars = {name: getattr(self, name) for name in SCALARS}
        scalars |= {
            "top_k": max(self.top_k, 0),
            "seed": self.seed if self.seed is not None else self.random_seed,
            "max_tokens": max_tokens,
            "min_tokens": min_tokens,
            "logprobs": logprobs,
        }
        return SamplingParams(
            **scalars,
            logit_bias=tuple((int(token), v) for token, v in self.logit_bias.items()),
            stop=tuple(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
            sampler=None if self.sampler is None else self.sampler.to_choice(),
            logits_processors=tuple(choice.to_choice() for choice in self.logits_processors),
        )


def _beyond_format(raw: Any) -> Extras:
    """The fields of a response format that its type does not have."""
    kind = raw.get("type") if isinstance(raw, dict) else None
    own = kind if kind in ("json_schema", "regex", "grammar", "choice") else "type"
    found = [*beyond(raw, {"type", own}, "response_format")]
    if kind == "json_schema":
        known = {"name", "schema", "strict"}
        found += beyond(raw.get("json_schema"), known, "response_format", "json_schema")
    return found
