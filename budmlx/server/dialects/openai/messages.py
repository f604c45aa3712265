"""The messages of a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)
from pydantic.config import JsonDict
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from budmlx.engine.request.foreign_parts import foreign_part
from budmlx.engine.request.messages import MAY_BE_EMPTY
from budmlx.server.wire import Int, WireModel, ignored
from budmlx.types import ImagePart, Message, Role, TextPart, ToolCall

MAX_PARTS = 2048


def _in_object(url: Any) -> Any:
    return {"url": url} if isinstance(url, str) else url


class TextContent(WireModel):
    """Text in a message's content."""

    type: Literal["text"]
    text: str

    def to_part(self) -> TextPart:
        """The same part as a plain value."""
        return TextPart(self.text)


class ImageUrl(WireModel):
    """Where a picture is: a `data:` URL, or an address whose host the server's settings name."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImageContent(WireModel):
    """A picture in a user's message; some clients give the URL without an object around it."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_in_object)]

    def to_part(self) -> ImagePart:
        """The same part as a plain value."""
        return ImagePart(self.image_url.url, self.image_url.detail)


class PlainImageContent(WireModel):
    """A picture in the shape of the Cerebras SDK."""

    type: Literal["image"]
    image: str

    def to_part(self) -> ImagePart:
        """The same part as a plain value."""
        return ImagePart(self.image, place="image")


class OtherContent(WireModel):
    """A part of another type in the history, as other servers write it. thought: its reasoning."""

    type: Literal["other"]
    kind: str
    text: str
    thought: str

    def to_part(self) -> TextPart:
        """The part's text as a plain value."""
        return TextPart(self.text)


KINDS = ("text", "image_url", "image")


def _part_tag(part: Any) -> str | None:
    if isinstance(part, Other):
        return "<other>"
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return f"<{kind}>" if kind in KINDS else None


class Other(dict[str, Any]):
    """The fields of an `OtherContent`, which no client can write."""


def _known(part: Any, role: str) -> Any:
    """A part in a type of this protocol. What a user's says must be understood now; of all
    others the text counts, if there is any."""
    if not isinstance(part, dict) or part.get("type") in KINDS:
        return part
    kind, foreign = part.get("type"), foreign_part(part)
    if role == "user":
        return {"type": "text", "text": foreign.text} if foreign.text else part
    if not isinstance(kind, str):
        return part
    return Other(type="other", kind=kind, text=foreign.text, thought=foreign.thought)


Part = Annotated[
    Annotated[TextContent, Tag("<text>")]
    | Annotated[ImageContent, Tag("<image_url>")]
    | Annotated[PlainImageContent, Tag("<image>")]
    | Annotated[SkipJsonSchema[OtherContent], Tag("<other>")],
    Discriminator(
        _part_tag,
        custom_error_type="part",
        custom_error_message="Input should be a part of the type text or image_url",
    ),
]


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


Texts = Annotated[list[TextContent], Field(min_length=1, max_length=MAX_PARTS)]
Parts = Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]
_BY_TAG = Discriminator(
    _content_tag,
    custom_error_type="content",
    custom_error_message="Input should be a string or a list of parts",
)
TextOrParts = Annotated[Annotated[str, Tag("<text>")] | Annotated[Texts, Tag("<parts>")], _BY_TAG]
Content = Annotated[Annotated[str, Tag("<text>")] | Annotated[Parts, Tag("<parts>")], _BY_TAG]


_NO_IMAGES: JsonDict = {
    "type": ["string", "array", "null"],
    "items": {"properties": {"type": {"const": "text"}}},
}
CONTENT_RULES: JsonDict = {
    "anyOf": [
        {
            "required": ["content"],
            "properties": {"role": {"const": "user"}, "content": {"type": ["string", "array"]}},
        },
        {
            "required": ["content"],
            "properties": {"content": {**_NO_IMAGES, "type": ["string", "array"]}},
        },
        {
            "properties": {
                "role": {"enum": ["assistant", "tool", "function"]},
                "content": _NO_IMAGES,
            },
        },
    ]
}
"""Replies and results may lack content; only a user's holds images."""


class Prediction(WireModel):
    """What the client expects of the reply, such as the file that is to be changed."""

    type: Literal["content"]
    content: TextOrParts

    @property
    def text(self) -> str:
        """The text of all parts."""
        parts = self.content
        return parts if isinstance(parts, str) else "".join(part.text for part in parts)


OptionalPrediction = Annotated[
    Prediction | None,
    Field(
        description="Text that the reply is expected to repeat, which makes it faster where "
        "`--speculation` is on; it says the same either way."
    ),
]


class ChatMessage(WireModel):
    """One message of the conversation."""

    model_config = ConfigDict(json_schema_extra=CONTENT_RULES)

    role: Role
    name: str | None = None
    tool_calls: list[CallOfTool] = []
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None
    reasoning: TextOrParts | None = None
    reasoning_content: TextOrParts | None = None
    content: Content | None = Field(None, validate_default=True)
    prefix: bool = False
    refusal: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _understood(cls, content: Any, info: ValidationInfo) -> Any:
        """Check that there is content where it must be, and read the parts of other servers."""
        role = info.data.get("role")
        if content in (None, []) and role in MAY_BE_EMPTY:
            return None
        if content is None and role is not None:
            raise PydanticCustomError("missing", "Field required")
        if isinstance(content, list) and role is not None:
            return [_known(part, role) for part in content]
        return content

    def overridden(self, place: str) -> Iterator[str]:
        """A warning for each field that another one overrides, if they differ."""
        calls, old, newer = self.tool_calls, self.function_call, self.reasoning_content
        if calls and old is not None and old != calls[0].function:
            yield ignored(f"{place}.function_call", f"{place}.tool_calls")
        if None not in (self.reasoning, newer) and self.reasoning != newer:
            yield ignored(f"{place}.reasoning", f"{place}.reasoning_content")
        if self.content and self.refusal:
            yield ignored(f"{place}.refusal", f"{place}.content")
        for index, part in enumerate(self._others):
            if part is not None and not part.text and not part.thought:
                yield f"`{place}.content[{index}]` was left out: it is of the type {part.kind}."
        if self._given_reasoning and self._thought not in ("", self._given_reasoning):
            index = next(i for i, part in enumerate(self._others) if part and part.thought)
            given = "reasoning" if self.reasoning_content is None else "reasoning_content"
            yield ignored(f"{place}.content[{index}]", f"{place}.{given}")

    @property
    def _others(self) -> list[OtherContent | None]:
        """The parts of other types, in their places among all."""
        parts = self.content if isinstance(self.content, list) else []
        return [part if isinstance(part, OtherContent) else None for part in parts]

    @property
    def _thought(self) -> str:
        """The reasoning in parts of the content."""
        return "".join(part.thought for part in self._others if part is not None)

    @property
    def _given_reasoning(self) -> str | None:
        """The reasoning in fields of its own, which takes precedence."""
        given = self.reasoning if self.reasoning_content is None else self.reasoning_content
        return "".join(part.text for part in given) if isinstance(given, list) else given

    def to_message(self) -> Message:
        """The same message as a plain value."""
        parts = self.content or self.refusal or ""
        content: str | tuple[TextPart | ImagePart, ...] = ""
        if isinstance(parts, str):
            content = parts
        else:
            kept = (p for p in parts if not isinstance(p, OtherContent) or p.text)
            content = tuple(part.to_part() for part in kept)
        calls = self.tool_calls
        if not calls and self.function_call is not None:
            calls = [CallOfTool(function=self.function_call)]
        reasoning = self._given_reasoning
        return Message(
            role=self.role,
            content=content,
            name=self.name,
            tool_calls=tuple(
                ToolCall(call.id, call.function.name, call.function.arguments) for call in calls
            ),
            reasoning=reasoning or self._thought or reasoning,
            tool_call_id=self.tool_call_id,
            prefix=self.prefix,
        )
