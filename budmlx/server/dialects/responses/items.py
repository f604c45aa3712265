"""Items of the input: what was said, called and answered before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema

from budmlx.server.unknown_fields import Extra, Loc
from budmlx.server.wire import AnyOf, Text, WireModel

MAX_PARTS = 2048
TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


class _Item(WireModel):
    """An object that comes back as a server or a client wrote it once, with fields of its own."""

    def extras(self, loc: Loc = ()) -> Iterator[Extra]:
        """None: what is not read was meant for others."""
        return iter(())


class TextItemPart(_Item):
    """Text."""

    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
    text: Text


class RefusalPart(_Item):
    """A refusal, in a reply of the history."""

    type: Literal["refusal"]
    refusal: Text


class ImageItemPart(_Item):
    """A picture: a `data:` URL, or an address whose host the server's settings name."""

    type: Literal["input_image"]
    image_url: str | None = None
    detail: Literal["auto", "low", "high", "original"] = "auto"


class FilePart(_Item):
    """A file, whose text is read; file_data: base64, alone or as a `data:` URL."""

    type: Literal["input_file"]
    filename: str | None = None
    file_data: str | None = None


class OtherPart(_Item):
    """A part of a type that is not read."""

    type: str = ""


def _part_tag(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    if kind in TEXTS:
        return "<text>"
    return f"<{kind}>" if kind in ("refusal", "input_image", "input_file") else "<other>"


Part = Annotated[
    Annotated[TextItemPart, Tag("<text>")]
    | Annotated[RefusalPart, Tag("<refusal>")]
    | Annotated[ImageItemPart, Tag("<input_image>")]
    | Annotated[FilePart, Tag("<input_file>")]
    | Annotated[SkipJsonSchema[OtherPart], Tag("<other>")],
    Discriminator(_part_tag),
    AnyOf(),
]


def _content_tag(content: Any) -> str | None:
    if isinstance(content, str):
        return "<text>"
    return "<parts>" if isinstance(content, list) else None


Content = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[list[Part], Field(max_length=MAX_PARTS), Tag("<parts>")],
    Discriminator(
        _content_tag,
        custom_error_type="content",
        custom_error_message="Input should be a string or a list of parts",
    ),
]


class MessageItem(_Item):
    """A message. developer is the same as system."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    id: str | None = None


class ReasoningInput(_Item):
    """Reasoning before the reply or the calls that follow; `encrypted_content` goes first."""

    type: Literal["reasoning"]
    summary: list[TextItemPart] = []
    content: list[TextItemPart] = []
    encrypted_content: str | None = None
    id: str | None = None


class FunctionCallInput(_Item):
    """A call of a function. arguments: the text of a JSON object."""

    type: Literal["function_call"]
    call_id: str
    name: str
    namespace: str | None = None
    arguments: Text = "{}"
    id: str | None = None


class CustomCallInput(_Item):
    """A call of a custom tool, whose input is any text."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    namespace: str | None = None
    input: Text = ""
    id: str | None = None


class CallOutput(_Item):
    """The result of a call."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str
    output: Content
    id: str | None = None


class ItemReference(_Item):
    """An item of a stored response."""

    type: Literal["item_reference"] = "item_reference"
    id: str


class OtherItem(_Item):
    """An item of a type that is not read."""

    type: str = ""
    id: str | None = None


KINDS = {
    "message": "<message>",
    "reasoning": "<reasoning>",
    "function_call": "<function_call>",
    "custom_tool_call": "<custom_tool_call>",
    "function_call_output": "<output>",
    "custom_tool_call_output": "<output>",
    "item_reference": "<item_reference>",
}


def _item_tag(item: Any) -> str:
    if not isinstance(item, dict):
        # Its model refuses what is no object.
        return "<message>"
    kind = item.get("type")
    if kind is None:
        return "<item_reference>" if item.keys() <= {"id", "type"} else "<message>"
    return KINDS.get(kind, "<other>") if isinstance(kind, str) else "<message>"


Item = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[ReasoningInput, Tag("<reasoning>")]
    | Annotated[FunctionCallInput, Tag("<function_call>")]
    | Annotated[CustomCallInput, Tag("<custom_tool_call>")]
    | Annotated[CallOutput, Tag("<output>")]
    | Annotated[ItemReference, Tag("<item_reference>")]
    | Annotated[SkipJsonSchema[OtherItem], Tag("<other>")],
    Discriminator(_item_tag),
    AnyOf(),
]


def _as_items(value: Any) -> Any:
    """A lone text is a user's message."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


Items = Annotated[list[Item], BeforeValidator(_as_items)]
