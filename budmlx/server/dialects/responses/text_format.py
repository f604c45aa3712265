"""The `text` of a request: the form that the text of the reply must have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from budmlx.server.wire import (
    MUST,
    AnyOf,
    ErrorMessage,
    UniformErrors,
    UnreadFlag,
    UnreadText,
    WireModel,
)
from budmlx.types import ResponseFormat

PLACE = "text.format"
TYPES = ("text", "json_object", "json_schema")


class AnyTextFormat(UniformErrors):
    """Any text."""

    type: Annotated[Literal["text"], ErrorMessage(f"must be one of {', '.join(TYPES)}")]

    def to_format(self) -> ResponseFormat | None:
        """The same form as a plain value; None for any text."""
        return None


class AnyObjectFormat(WireModel):
    """Any JSON object."""

    type: Literal["json_object"]

    def to_format(self) -> ResponseFormat | None:
        """The same form as a plain value; None for any text."""
        return ResponseFormat("json_object", param=PLACE)


class SchemaFormat(UniformErrors):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    schema_: Annotated[
        dict[str, Any] | bool, Field(alias="schema"), ErrorMessage("must be a JSON schema")
    ]
    name: UnreadText = None
    description: UnreadText = None
    strict: UnreadFlag = None

    def to_format(self) -> ResponseFormat | None:
        """The same form as a plain value; None for any text."""
        return ResponseFormat("json_schema", self.schema_, f"{PLACE}.schema")


def _tag(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    # One of the forms has to refuse what none of them is.
    return f"<{kind}>" if isinstance(kind, str) and kind in TYPES else "<text>"


TextFormat = Annotated[
    Annotated[AnyTextFormat, Tag("<text>")]
    | Annotated[AnyObjectFormat, Tag("<json_object>")]
    | Annotated[SchemaFormat, Tag("<json_schema>")],
    Discriminator(
        _tag, custom_error_type=MUST, custom_error_message="must be an object with a type"
    ),
    AnyOf(),
]


class TextOptions(WireModel):
    """How the text of the reply is to be. verbosity: changes nothing."""

    format: TextFormat | None = None
    verbosity: UnreadText = None

    def to_format(self) -> ResponseFormat | None:
        """The form as a plain value; None for any text."""
        return None if self.format is None else self.format.to_format()
