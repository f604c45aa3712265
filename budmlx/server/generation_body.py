"""Generation body: the fields of all dialects that say how text is generated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from budmlx.engine.models.models import ServedModel
from budmlx.errors import InvalidRequestError
from budmlx.server.cache_option import CacheOption
from budmlx.server.declared import SCALARS, described, with_scalars, within
from budmlx.server.unknown_fields import Extra, Loc
from budmlx.server.wire import Body, ErrorMessage, Int, WireModel
from budmlx.types import (
    MAX_BIAS,
    MAX_BIASES,
    PluginChoice,
    Priority,
    SamplingParams,
)

MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_PROCESSORS = 16

OUTSIDE = "Ids outside the vocabulary are ignored and listed in `warnings`."

TokenId = Annotated[Int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]
Biases = Annotated[
    dict[str, Bias],
    Field(
        max_length=MAX_BIASES,
        json_schema_extra={"propertyNames": {"pattern": "^-?[0-9]{1,19}$"}},
    ),
]
Int64 = Annotated[Int, Field(ge=-(2**63), lt=2**63)]


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


def renamed(text: str, names: Mapping[str, str]) -> str:
    """A sentence on parameters, with the names that a client gave them. names: by ours."""
    if not names:
        return text
    return re.sub(rf"\b(?:{'|'.join(names)})\b", lambda found: names[found[0]], text)


class NamedChoice(WireModel):
    """A sampler or logits processor of a plugin; the other fields are its options."""

    name: str

    def to_choice(self) -> PluginChoice:
        """The same choice as a plain value."""
        return PluginChoice(self.name, dict(self.model_extra or {}))

    def extras(self, loc: Loc = ()) -> Iterator[Extra]:
        """None: every further field is an option."""
        return iter(())


@with_scalars
class Scalars(Body):
    """The sampling parameters that have the same form on the wire as in `SamplingParams`."""


class GenerationBody(Scalars):
    """The fields of every body that asks for generated text, by the names that all dialects use.

    Sampling parameters stand here where the wire has another form or range for them.
    """

    stream: bool | None = Field(
        None, description="Answer with server-sent events; absent, the Accept header decides."
    )
    top_k: Annotated[Int, Field(ge=-1, lt=2**31), described("top_k", "-1 is the same as 0.")] = 0
    logit_bias: Annotated[Biases, described("logit_bias", OUTSIDE)] = {}
    seed: Annotated[Int64 | None, described("seed")] = None
    random_seed: Int64 | None = Field(
        None, description="Another name of `seed`, which takes precedence."
    )
    stop: Annotated[Stops, described("stop")] = []
    stop_token_ids: Annotated[
        list[TokenId], Field(max_length=MAX_STOPS), described("stop_token_ids")
    ] = []
    min_tokens: Annotated[Int, within("min_tokens"), described("min_tokens")] = 0
    sampler: Annotated[NamedChoice | None, described("sampler")] = None
    logits_processors: Annotated[
        list[NamedChoice], Field(max_length=MAX_PROCESSORS), described("logits_processors")
    ] = []
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
    adapter: str = Field(
        "",
        max_length=256,
        description="LoRA adapter of the model, which can stand in `model`, too: `MODEL:ADAPTER`.",
    )
    explain_cache: bool = Field(
        False, description="Say how much of the prompt's KV was reused, and why not more."
    )
    speculation: bool = Field(
        True, description="False drafts no tokens for this reply; it says the same either way."
    )
    priority: Priority | None = Field(
        None, description="`background` runs only on what interactive requests leave."
    )
    service_tier: str | None = Field(
        None, description="`flex` is the same as the priority `background`; other texts are not."
    )

    @field_validator("logit_bias")
    @classmethod
    def _check_ids(cls, bias: dict[str, float]) -> dict[str, float]:
        # int() also takes spaces, underscores and other scripts' digits.
        if not all(re.fullmatch(r"-?[0-9]{1,19}", token) for token in bias):
            raise PydanticCustomError("token_id", "Keys should be token ids")
        return bias

    def wants_stream(self, headers: Mapping[str, str]) -> bool:
        """Whether to answer with a stream. Some clients ask for it by the Accept header alone."""
        if self.stream is not None:
            return self.stream
        return "text/event-stream" in headers.get("Accept", "").lower()

    @property
    def low_priority(self) -> bool:
        """Whether it asks for the class of the background."""
        flex = self.service_tier == "flex" and self.priority is None
        return flex or self.priority == "background"

    def overridden(self) -> Iterator[str]:
        """A warning for each field that another one overrides, if they differ."""
        return self.other_name("random_seed", "seed")

    def adapter_of(self, model: ServedModel) -> str:
        """The adapter to use. Raises InvalidRequestError if `model` names another one."""
        if self.adapter and model.adapter not in ("", self.adapter):
            raise InvalidRequestError(
                f"`adapter` is not the adapter of `model`, {model.adapter}.", param="adapter"
            )
        return self.adapter or model.adapter

    def sampling(self, **named: Any) -> SamplingParams:
        """The sampling parameters. named: those that the dialect names differently.

        Raises InvalidRequestError for combinations.
        """
        values = {name: getattr(self, name) for name in SCALARS}
        values |= {
            "top_k": max(self.top_k, 0),
            "seed": self.seed if self.seed is not None else self.random_seed,
            "stop": tuple(self.stop),
            "min_tokens": self.min_tokens,
            "logit_bias": tuple((int(token), v) for token, v in self.logit_bias.items()),
            "stop_token_ids": tuple(self.stop_token_ids),
            "sampler": None if self.sampler is None else self.sampler.to_choice(),
            "logits_processors": tuple(choice.to_choice() for choice in self.logits_processors),
        }
        return SamplingParams(**{**values, **named})
