"""The request of `POST /v1/chat/completions`, from JSON to `types.Request`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from budmlx.errors import InvalidRequestError
from budmlx.server.errors import param_path
from budmlx.server.wire.params import Extras, review
from budmlx.types import Message, Request, Role, SamplingParams, TextPart, ToolCall

MAX_MESSAGES = 4096
MAX_PARTS = 2048
MAX_STOPS = 16
MAX_STOP_CHARS = 256

DEFAULTS = SamplingParams()


def _integral(value: Any) -> Any:
    """JSON has one kind of number: 1.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_integral)]
TokenId = Annotated[Int, Field(ge=0, lt=2**31)]
Int64 = Annotated[Int, Field(ge=-(2**63), lt=2**63)]


class WireModel(BaseModel):
    """Strict types; an explicit null means absent; unknown fields are kept for `review`."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


class Part(WireModel):
    """One part of a message's content."""

    type: Literal["text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _refuse_media(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if kind in ("image_url", "image", "input_image", "input_audio", "video_url", "file"):
            raise PydanticCustomError("media", "This model takes text parts only")
        return data


class FunctionCall(WireModel):
    """Name and arguments (a JSON string) of a call."""

    name: str
    arguments: str = "{}"


class CallOfTool(WireModel):
    """A call in an assistant message of the history."""

    id: str = ""
    index: Int | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


def _content_tag(content: Any) -> str | None:
    if isinstance(content, str):
        return "<text>"
    return "<parts>" if isinstance(content, list) else None


Parts = Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]
Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Parts, Tag("<parts>")],
    Discriminator(
        _content_tag,
        custom_error_type="content",
        custom_error_message="Input should be a string or a list of parts",
    ),
]


class ChatMessage(WireModel):
    """One message of the conversation."""

    role: Role
    name: str | None = None
    tool_calls: list[CallOfTool] = []
    tool_call_id: str | None = None
    content: Content | None = Field(None, validate_default=True)

    @field_validator("content")
    @classmethod
    def _only_calls_replace_content(
        cls, content: str | list[Part] | None, info: ValidationInfo
    ) -> str | list[Part] | None:
        is_call = info.data.get("role") == "assistant" and info.data.get("tool_calls")
        if content is None and "role" in info.data and not is_call:
            raise PydanticCustomError("missing", "Field required")
        return content

    def to_message(self) -> Message:
        """The same message as a plain value."""
        if isinstance(self.content, list):
            content: str | tuple[TextPart, ...] = tuple(TextPart(p.text) for p in self.content)
        else:
            content = self.content or ""
        return Message(
            role=self.role,
            content=content,
            name=self.name,
            tool_calls=tuple(
                ToolCall(call.id, call.function.name, call.function.arguments)
                for call in self.tool_calls
            ),
            tool_call_id=self.tool_call_id,
        )


class StreamOptions(WireModel):
    """How a stream ends."""

    include_usage: bool = False


class ChatRequest(WireModel):
    """The body. Fields that only some clients know by another name have both."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[Int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = DEFAULTS.temperature
    top_p: Annotated[float, Field(ge=0, le=1)] = DEFAULTS.top_p
    top_k: Annotated[Int, Field(ge=-1)] = DEFAULTS.top_k
    min_p: Annotated[float, Field(ge=0, le=1)] = DEFAULTS.min_p
    seed: Int64 | None = None
    random_seed: Int64 | None = None
    stop: list[str] = []
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOPS)] = []
    user: str | None = None
    chat_template_kwargs: dict[str, Any] = {}

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
            models.extend(_with_parts(("messages", index), message))
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

    def to_request(self) -> Request:
        """The same request as a plain value."""
        return Request(
            messages=tuple(message.to_message() for message in self.messages),
            sampling=SamplingParams(
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=max(self.top_k, 0),
                min_p=self.min_p,
                seed=self.seed if self.seed is not None else self.random_seed,
                max_tokens=self.max_completion_tokens or self.max_tokens,
                stop=tuple(self.stop),
                stop_token_ids=tuple(self.stop_token_ids),
            ),
            chat_template_kwargs=self.chat_template_kwargs,
        )


def _with_parts(
    loc: tuple[str | int, ...], message: ChatMessage
) -> Iterator[tuple[tuple[str | int, ...], WireModel]]:
    yield loc, message
    if isinstance(message.content, list):
        for index, part in enumerate(message.content):
            yield (*loc, "content", index), part
    for index, call in enumerate(message.tool_calls):
        yield (*loc, "tool_calls", index), call
        yield (*loc, "tool_calls", index, "function"), call.function


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
