"""Blocks of content as they stand on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema

from budmlx.server.unknown_fields import Extra, Loc
from budmlx.server.wire import AnyOf, Text, WireModel

MAX_BLOCKS = 4096


class CacheControl(WireModel):
    """A mark at the end of what other requests begin with, too."""

    type: Literal["ephemeral"] = "ephemeral"
    ttl: Literal["5m", "1h"] = "5m"

    @property
    def seconds(self) -> float:
        """How long what it ends is to be kept."""
        return 3600.0 if self.ttl == "1h" else 300.0


class MarkedBlock(WireModel):
    """A block that may be marked."""

    cache_control: CacheControl | None = None

    @property
    def marked(self) -> float:
        """How long what it ends is to be kept; 0 without a mark."""
        return 0.0 if self.cache_control is None else self.cache_control.seconds


class TextBlock(MarkedBlock):
    """Text."""

    type: Literal["text"]
    text: Text


class Source(WireModel):
    """Where a picture or a document is. data: base64, or text where the type is `text`."""

    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    content: str | list[Any] = ""


class ImageBlock(MarkedBlock):
    """A picture."""

    type: Literal["image"]
    source: Source


class DocumentBlock(MarkedBlock):
    """A document, of which the text counts."""

    type: Literal["document"]
    source: Source
    title: str = ""
    context: str = ""


class SearchResultBlock(MarkedBlock):
    """A passage that was found. source: where."""

    type: Literal["search_result"]
    source: str
    title: str
    content: list[TextBlock]


class ThinkingBlock(WireModel):
    """Reasoning of an earlier reply. signature: holds it, too, if this server wrote it."""

    type: Literal["thinking"]
    thinking: Text = ""
    signature: str = ""


class ToolUseBlock(MarkedBlock):
    """A call of an earlier reply."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: Any = Field({}, json_schema_extra={"type": "object"})


class ToolReferenceBlock(MarkedBlock):
    """A deferred tool that was found: its definition stands here."""

    type: Literal["tool_reference"]
    tool_name: str


class OtherBlock(MarkedBlock):
    """A block of a type that says nothing to the model."""

    type: str

    def extras(self, loc: Loc = ()) -> Iterator[Extra]:
        """None: all of it is left out."""
        return iter(())


KINDS = {"text", "image", "document", "search_result", "thinking", "tool_use", "tool_result"}
KINDS |= {"tool_reference"}


def _tag(block: Any) -> str:
    kind = block.get("type") if isinstance(block, dict) else getattr(block, "type", None)
    return f"<{kind}>" if isinstance(kind, str) and kind in KINDS else "<other>"


ResultBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[DocumentBlock, Tag("<document>")]
    | Annotated[SearchResultBlock, Tag("<search_result>")]
    | Annotated[ToolReferenceBlock, Tag("<tool_reference>")]
    | Annotated[SkipJsonSchema[OtherBlock], Tag("<other>")],
    Discriminator(lambda block: tag if (tag := _tag(block)) in RESULT_TAGS else "<other>"),
    AnyOf(),
]
RESULT_TAGS = {"<text>", "<image>", "<document>", "<search_result>", "<tool_reference>"}


def _shape(content: Any) -> str | None:
    if isinstance(content, str):
        return "<string>"
    return "<blocks>" if isinstance(content, list) else None


TEXT_OR_BLOCKS = Discriminator(
    _shape,
    custom_error_type="content",
    custom_error_message="Input should be a string or a list of blocks",
)
Blocks = Field(max_length=MAX_BLOCKS)


class ToolResultBlock(MarkedBlock):
    """What a call gave."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Annotated[
        Annotated[Text, Tag("<string>")] | Annotated[list[ResultBlock], Blocks, Tag("<blocks>")],
        TEXT_OR_BLOCKS,
        AnyOf(),
    ] = ""
    is_error: bool = False


Block = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[DocumentBlock, Tag("<document>")]
    | Annotated[SearchResultBlock, Tag("<search_result>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")]
    | Annotated[SkipJsonSchema[ToolReferenceBlock], Tag("<tool_reference>")]
    | Annotated[SkipJsonSchema[OtherBlock], Tag("<other>")],
    Discriminator(_tag),
    AnyOf(),
]
Content = Annotated[
    Annotated[Text, Tag("<string>")] | Annotated[list[Block], Blocks, Tag("<blocks>")],
    TEXT_OR_BLOCKS,
    AnyOf(),
]
Instructions = Annotated[
    Annotated[Text, Tag("<string>")] | Annotated[list[TextBlock], Blocks, Tag("<blocks>")],
    TEXT_OR_BLOCKS,
    AnyOf(),
]


Effort = Literal["low", "medium", "high", "xhigh", "max"]


class MessageOutputConfig(WireModel):
    """Settings from this message on."""

    effort: Effort | None = None


class ConversationMessage(WireModel):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: Content
    output_config: MessageOutputConfig | None = None
