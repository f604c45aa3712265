"""Messages of a conversation: text, pictures, and the calls that assistants made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text inside a message whose content is a list of parts."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A picture inside a message whose content is a list of parts.

    source: a URL (`data:`, `http:` or `https:`) as text; in the Python API also the bytes or
    the path of a file, a PIL image, or an array. place: what errors call it.
    """

    source: Any
    detail: Literal["auto", "low", "high"] = "auto"
    place: str = "image_url.url"


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call that an assistant message carries; `arguments` is a JSON string."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation.

    reasoning: what an assistant thought before its content. prefix: the reply goes on where this
    content ends; only for an assistant's message that is the last one.
    """

    role: Role
    content: str | tuple[Part, ...] = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None
    prefix: bool = False

    @property
    def text(self) -> str:
        """The content's text as one string: parts are joined without a separator."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def shows_images(self) -> bool:
        """Whether there are pictures in the content."""
        parts = () if isinstance(self.content, str) else self.content
        return any(isinstance(part, ImagePart) for part in parts)
