"""The request of `POST /v1/chat/completions`, from JSON to `types.Request`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from budmlx.engine.tools import parse_response_format, parse_tool_choice, parse_tools
from budmlx.errors import InvalidRequestError
from budmlx.server.errors import param_path
from budmlx.server.wire.messages import ChatMessage, Int, WireModel, with_parts
from budmlx.server.wire.params import Extras, review
from budmlx.types import (
    MAX_BIAS,
    MAX_BIASES,
    RANGES,
    CachePolicy,
    PluginChoice,
    Request,
    SamplingParams,
)

MAX_MESSAGES = 4096
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_CHOICES = 16
MAX_PROCESSORS = 16

DEFAULTS = SamplingParams()


TokenId = Annotated[Int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]
Int64 = Annotated[Int, Field(ge=-(2**63), lt=2**63)]


def _within(name: str) -> Any:
    """The range of a sampling parameter."""
    low, high = RANGES[name]
    return Field(ge=low, le=high)


def _cache(value: Any) -> CachePolicy:
    try:
        return CachePolicy.of(value)
    except InvalidRequestError:
        expected = 'Input should be true, false, "bypass" or {"ttl": seconds}'
        raise PydanticCustomError("cache", expected) from None


CacheOption = Annotated[CachePolicy, PlainValidator(_cache)]


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


class ChatRequest(WireModel):
    """The body. Fields that only some clients know by another name have both."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[Int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = None
    temperature: Annotated[float, _within("temperature")] = DEFAULTS.temperature
    top_p: Annotated[float, _within("top_p")] = DEFAULTS.top_p
    top_k: Annotated[Int, Field(ge=-1, lt=2**31)] = DEFAULTS.top_k
    min_p: Annotated[float, _within("min_p")] = DEFAULTS.min_p
    typical_p: Annotated[float, _within("typical_p")] = DEFAULTS.typical_p
    frequency_penalty: Annotated[float, _within("frequency_penalty")] = 0.0
    presence_penalty: Annotated[float, _within("presence_penalty")] = 0.0
    repetition_penalty: Annotated[float, _within("repetition_penalty")] = 1.0
    repetition_window: Annotated[Int, _within("repetition_window")] = 0
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MAX_BIASES)] = {}
    seed: Int64 | None = None
    random_seed: Int64 | None = None
    n: Annotated[Int, Field(ge=1, le=MAX_CHOICES)] = 1
    stop: list[str] = []
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOPS)] = []
    ignore_eos: bool = False
    min_tokens: Annotated[Int, _within("min_tokens")] = 0
    min_completion_tokens: Annotated[Int, _within("min_tokens")] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[Int, _within("logprobs")] | None = None
    sampler: NamedChoice | None = None
    logits_processors: Annotated[list[NamedChoice], Field(max_length=MAX_PROCESSORS)] = []
    tools: list[Any] = []
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    functions: list[Any] = []
    function_call: Any = None
    response_format: Any = None
    reasoning_format: Literal["parsed", "text_parsed", "raw", "hidden", "none"] = "parsed"
    disable_reasoning: bool | None = None
    clear_thinking: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    service_tier: str | None = None
    chat_template_kwargs: dict[str, Any] = {}
    cache: CacheOption | None = None

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

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Self:
        """Validate a body. Raises InvalidRequestError naming the first wrong parameter."""
        try:
            return cls.model_validate(body)
        except ValidationError as exc:
            raise _invalid(exc) from None

    def extras(self) -> Extras:
        """The fields that no wire model knows, with their places."""
        models: list[tuple[tuple[str | int, ...], WireModel]] = [((), self)]
        if self.stream_options is not None:
            models.append((("stream_options",), self.stream_options))
        for index, message in enumerate(self.messages):
            models.extend(with_parts(("messages", index), message))
        return ((loc, model.model_extra) for loc, model in models if model.model_extra)

    def review(self, *, streaming: bool, strict: bool) -> list[str]:
        """Warnings about what has no effect. Raises InvalidRequestError, see `params.review`."""
        warnings = review(self.extras(), strict=strict)
        if self.stream_options is not None and not streaming:
            warnings.append("`stream_options` has no effect without `stream`.")
        return warnings

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk for the usage alone."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def wants_logprobs(self) -> bool:
        """Whether to report logprobs. Documented client code sends top_logprobs alone."""
        return self.logprobs or bool(self.top_logprobs)

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Variables for the chat template. What is given there goes before its shorthands."""
        short: dict[str, Any] = {}
        if self.reasoning_effort is not None:
            short["reasoning_effort"] = self.reasoning_effort
        if self.reasoning_effort == "none":
            short["enable_thinking"] = False
        if self.disable_reasoning is not None:
            short["enable_thinking"] = not self.disable_reasoning
        if self.clear_thinking is not None:
            short["clear_thinking"] = self.clear_thinking
        return {**short, **self.chat_template_kwargs}

    @property
    def uses_functions(self) -> bool:
        """Whether the client speaks of functions, the older name of tools. Tools win."""
        return bool(self.functions) and not self.tools

    def to_request(self, *, incremental_calls: bool = False) -> Request:
        """The same request as a plain value. Raises InvalidRequestError for combinations.

        incremental_calls: what holds if the client does not say.
        """
        minimum = self.min_completion_tokens
        asked = self.stream_options.incremental_tool_calls if self.stream_options else None
        old = self.uses_functions
        tools = parse_tools(self.functions, "functions") if old else parse_tools(self.tools)
        choice = (self.function_call, "function_call") if old else (self.tool_choice, "tool_choice")
        thinking: dict[str, Literal["raw", "hidden"]] = {"raw": "raw", "hidden": "hidden"}
        return Request(
            messages=tuple(message.to_message() for message in self.messages),
            sampling=SamplingParams(
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
                max_tokens=self.max_completion_tokens or self.max_tokens,
                min_tokens=self.min_tokens if minimum is None else minimum,
                stop=tuple(self.stop),
                stop_token_ids=tuple(self.stop_token_ids),
                ignore_eos=self.ignore_eos,
                sampler=None if self.sampler is None else self.sampler.to_choice(),
                logits_processors=tuple(c.to_choice() for c in self.logits_processors),
                logprobs=(self.top_logprobs or 0) if self.wants_logprobs else None,
            ),
            n=self.n,
            tools=tools,
            tool_choice=parse_tool_choice(choice[0], tools, choice[1]),
            parallel_tool_calls=self.parallel_tool_calls and not old,
            incremental_calls=incremental_calls if asked is None else asked,
            response_format=parse_response_format(self.response_format),
            reasoning=thinking.get(self.reasoning_format, "parsed"),
            chat_template_kwargs=self.template_kwargs,
            cache=self.cache,
        )


def _invalid(exc: ValidationError) -> InvalidRequestError:
    first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    # Tags of unions are steps of pydantic's location, not of the client's.
    loc = [step for step in first["loc"] if not str(step).startswith("<")]
    param = param_path(loc)
    if first["type"] == "model_type":
        message = "input should be an object"
    else:
        message = first["msg"][:1].lower() + first["msg"][1:].split(" after validation")[0]
    return InvalidRequestError(f"`{param}`: {message}.", param=param)
