"""The messages of a chat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from budmlx.server.wire import Int, Text, WireModel
from budmlx.types import ImagePart, Message, Part, Role, TextPart, ToolCall

MAX_IMAGES = 100


class OllamaFunction(WireModel):
    """A function that was called, and the object of its arguments."""

    name: str
    arguments: dict[str, Any] = {}
    index: Int | None = None


class OllamaCall(WireModel):
    """A call in an assistant's message of the history. Most clients know no ids."""

    id: str = ""
    type: str = "function"
    function: OllamaFunction

    def to_call(self) -> ToolCall:
        """The same call as a plain value."""
        arguments = json.dumps(self.function.arguments, ensure_ascii=False)
        return ToolCall(self.id, self.function.name, arguments)


Images = Annotated[list[str], Field(max_length=MAX_IMAGES)]


class OllamaMessage(WireModel):
    """One message. images: files in base64. tool_name: of the tool whose result this is."""

    role: Role
    content: Text = ""
    thinking: Text | None = None
    images: Images = []
    tool_calls: list[OllamaCall] = []
    tool_name: str | None = None
    tool_call_id: str | None = None

    def to_message(self) -> Message:
        """The same message as a plain value."""
        return Message(
            role=self.role,
            content=content_of(self.content, self.images),
            name=self.tool_name or None,
            tool_calls=tuple(call.to_call() for call in self.tool_calls),
            tool_call_id=self.tool_call_id or None,
            reasoning=self.thinking or None,
        )


def content_of(text: str, images: Sequence[str]) -> str | tuple[Part, ...]:
    """The content of a message with pictures, which stand before its text."""
    if not images:
        return text
    parts = [ImagePart(_data_url(image), place="image") for image in images]
    return (*parts, TextPart(text))


def _data_url(image: str) -> str:
    """A picture as a URL; files are known by what they hold, whatever their type is said to be."""
    return image if image.startswith("data:") else f"data:image/png;base64,{image}"
