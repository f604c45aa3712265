"""The fields that requests for chats and for completions have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, field_validator
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError

from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.openai.openapi_fields import describe
from budmlx.server.dialects.openai.response_format import WireFormat
from budmlx.server.dialects.openai.unknown_fields import Extra, Loc
from budmlx.server.dialects.openai.wire_model import Body, ErrorMessage, Int, WireModel
from budmlx.types import (
    MAX_BIAS,
    MAX_BIASES,
    MAX_TTL,
    RANGES,
    CachePolicy,
    PluginChoice,
    ResponseFormat,
    SamplingParams,
)

MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_CHOICES = 16
MAX_PROCESSORS = 16

DEFAULTS = SamplingParams()

TokenId = Annotated[Int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]
Biases = Annotated[
    dict[str, Bias], Field(json_schema_extra={"propertyNames": {"pattern": "^-?[0-9]{1,19}$"}})
]
Int64 = Annotated[Int, Field(ge=-(2**63), lt=2**63)]


def within(name: str) -> Any:
    """The range of a sampling parameter."""
    low, high = RANGES[name]
    return Field(ge=low, le=high)


def _cache(value: Any) -> CachePolicy:
    try:
        return CachePolicy.of(value)
    except InvalidRequestError:
        expected = 'Input should be true, false, "bypass" or {"ttl": seconds}'
        raise PydanticCustomError("cache", expected) from None


CacheOption = Annotated[
    CachePolicy,
    PlainValidator(_cache),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "boolean"},
                {"const": "bypass"},
                {
                    "type": "object",
                    "required": ["ttl"],
                    "properties": {
                        "ttl": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TTL}
                    },
                    "additionalProperties": False,
                },
            ]
        }
    ),
]

_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Annotated[
    _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS)],
    AfterValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
    ErrorMessage(
        f"Input should be a string or up to {MAX_STOPS} strings, "
        f"each of 1 to {MAX_STOP_CHARS} characters",
        kind="stop",
    ),
]


class NamedChoice(WireModel):
    """A sampler or logits processor of a plugin; the other fields are its options."""

    name: str

    def to_choice(self) -> PluginChoice:
        """The same choice as a plain value."""
        return PluginChoice(self.name, dict(self.model_extra or {}))

    def extras(self, loc: Loc = ()) -> Iterator[Extra]:
        """None: every further field is an option."""
        return iter(())


class StreamOptions(WireModel):
    """How a stream tells things. incremental_tool_calls: arguments come piece by piece."""

    include_usage: bool = False
    incremental_tool_calls: bool | None = None


class GenerationRequest(Body):
    """The fields of every body that asks for generated text."""

    model_config = ConfigDict(json_schema_extra=describe)

    stream: bool | None = Field(
        None, description="Answer with server-sent events; absent, the Accept header decides."
    )
    stream_options: StreamOptions | None = Field(
        None, description="How a stream tells its usage and its tool calls."
    )
    max_tokens: Annotated[Int, Field(ge=1)] | None = None
    temperature: Annotated[float, within("temperature")] = DEFAULTS.temperature
    top_p: Annotated[float, within("top_p")] = DEFAULTS.top_p
    top_k: Annotated[Int, Field(ge=-1, lt=2**31)] = DEFAULTS.top_k
    min_p: Annotated[float, within("min_p")] = DEFAULTS.min_p
    typical_p: Annotated[float, within("typical_p")] = DEFAULTS.typical_p
    frequency_penalty: Annotated[float, within("frequency_penalty")] = 0.0
    presence_penalty: Annotated[float, within("presence_penalty")] = 0.0
    repetition_penalty: Annotated[float, within("repetition_penalty")] = 1.0
    repetition_window: Annotated[Int, within("repetition_window")] = 0
    logit_bias: Annotated[Biases, Field(max_length=MAX_BIASES)] = {}
    seed: Int64 | None = None
    random_seed: Int64 | None = None
    n: Annotated[Int, Field(ge=1, le=MAX_CHOICES)] = 1
    stop: Stops = Field([], description="Texts that end a reply and are not part of it.")
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOPS)] = []
    ignore_eos: bool = False
    min_tokens: Annotated[Int, within("min_tokens")] = 0
    sampler: NamedChoice | None = Field(
        None, description="A sampler that a plugin brings, with its options."
    )
    logits_processors: list[NamedChoice] = Field(
        [],
        max_length=MAX_PROCESSORS,
        description="Processors that plugins bring, with their options, in order.",
    )
    response_format: WireFormat | None = Field(
        None,
        description="The form of the content, enforced while it is written. No effect on a "
        "forced call.",
    )
    service_tier: str | None = Field(None, description="Any text; changes nothing.")
    cache: CacheOption | None = Field(
        None,
        description="Cache the reply and answer the same request from it; `bypass` computes anew.",
    )
    cache_salt: str = Field(
        "",
        max_length=256,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="Cached replies and reused prompts are shared only where this is the same.",
    )
    explain_cache: bool = Field(
        False, description="Say how much of the prompt's KV was reused, and why not more."
    )

    @field_validator("logit_bias")
    @classmethod
    def _check_ids(cls, bias: dict[str, float]) -> dict[str, float]:
        # int() also takes spaces, underscores and other scripts' digits.
        if not all(re.fullmatch(r"-?[0-9]{1,19}", token) for token in bias):
            raise PydanticCustomError("token_id", "Keys should be token ids")
        return bias

    def overridden(self) -> Iterator[str]:
        """A warning for each field that another one overrides, if they differ."""
        return self.other_name("random_seed", "seed")

    def review(self, *, strict: bool, streaming: bool = False) -> list[str]:
        """Warnings about what has no effect.

        Raises InvalidRequestError, see `unknown_fields.review`.
        """
        warnings = super().review(strict=strict)
        if self.stream_options is not None and not streaming:
            warnings.append("`stream_options` has no effect without `stream`.")
        return warnings

    def wants_stream(self, headers: Mapping[str, str]) -> bool:
        """Whether to answer with a stream. Some clients ask for it by the Accept header alone."""
        if self.stream is not None:
            return self.stream
        return "text/event-stream" in headers.get("Accept", "").lower()

    @property
    def format(self) -> ResponseFormat | None:
        """The form that the reply must have; None for any text."""
        return None if self.response_format is None else self.response_format.to_format()

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
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(self.top_k, 0),
            min_p=self.min_p,
            typical_p=self.typical_p,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            repetition_penalty=self.repetition_penalty,
            repetition_window=self.repetition_window,
            logit_bias=tuple((int(token), v) for token, v in self.logit_bias.items()),
            seed=self.seed if self.seed is not None else self.random_seed,
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            stop=tuple(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
            sampler=None if self.sampler is None else self.sampler.to_choice(),
            logits_processors=tuple(choice.to_choice() for choice in self.logits_processors),
            logprobs=logprobs,
        )
