"""The `response_format` of a request: the form that the content must have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from budmlx.engine.request.tools import FORMATS, MAX_CHOICES
from budmlx.server.wire import (
    MUST,
    AnyOf,
    ErrorMessage,
    UniformErrors,
    UnreadFlag,
    UnreadText,
    WireModel,
    an_object,
)
from budmlx.types import ResponseFormat

PLACE = "response_format"

NonEmptyText = Annotated[str, Field(min_length=1)]


def _with_description(schema: dict[str, Any]) -> None:
    # It is taken from clients that send it, but has no effect, which a warning says.
    schema["properties"]["description"] = {"type": "string"}


class Schema(WireModel):
    """A JSON schema with a name. Without the schema any JSON object will do."""

    model_config = ConfigDict(json_schema_extra=_with_description)

    name: UnreadText = None
    schema_: Annotated[
        dict[str, Any] | bool | None, Field(alias="schema"), ErrorMessage("must be a JSON schema")
    ] = None
    strict: UnreadFlag = None


class TextFormat(UniformErrors):
    """Any text."""

    type: Annotated[Literal["text"], ErrorMessage(f"must be one of {', '.join(FORMATS)}")]

    def to_format(self) -> ResponseFormat | None:
        """The same form as a plain value; None for any text."""
        return None


class JsonObjectFormat(WireModel):
    """Any JSON object."""

    type: Literal["json_object"]

    def to_format(self) -> ResponseFormat | None:
        """The same form as a plain value; None for any text."""
        return ResponseFormat("json_object", param=PLACE)


class JsonSchemaFormat(UniformErrors):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: Annotated[Schema, an_object("must be an object with a schema")]

    def to_format(self) -> ResponseFormat | None:
        """The same form as a plain value; None for any text."""
        place, schema = f"{PLACE}.json_schema", self.json_schema.schema_
        if schema is None:
            return ResponseFormat("json_object", param=place)
        return ResponseFormat("json_schema", schema, f"{place}.schema")


class RegexFormat(UniformErrors):
    """Text that a regular expression matches as a whole."""

    type: Literal["regex"]
    regex: Annotated[NonEmptyText, ErrorMessage("must be a text")]

    def to_format(self) -> ResponseFormat | None:
        """The same form as a plain value; None for any text."""
        return ResponseFormat("regex", self.regex, f"{PLACE}.regex")


class GrammarFormat(UniformErrors):
    """Text of a language that a Lark grammar describes."""

    type: Literal["grammar"]
    grammar: Annotated[NonEmptyText, ErrorMessage("must be a text")]

    def to_format(self) -> ResponseFormat | None:
        """The same form as a plain value; None for any text."""
        return ResponseFormat("grammar", self.grammar, f"{PLACE}.grammar")


class ChoiceFormat(UniformErrors):
    """One of several texts."""

    type: Literal["choice"]
    choice: Annotated[
        list[NonEmptyText],
        Field(min_length=1, max_length=MAX_CHOICES),
        ErrorMessage(f"must be a list of 1 to {MAX_CHOICES} texts"),
    ]

    def to_format(self) -> ResponseFormat | None:
        """The same form as a plain value; None for any text."""
        return ResponseFormat("choice", self.choice, f"{PLACE}.choice")


def _tag(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    # One of the forms has to refuse what none of them is.
    return f"<{kind}>" if isinstance(kind, str) and kind in FORMATS else "<text>"


WireFormat = Annotated[
    Annotated[TextFormat, Tag("<text>")]
    | Annotated[JsonObjectFormat, Tag("<json_object>")]
    | Annotated[JsonSchemaFormat, Tag("<json_schema>")]
    | Annotated[RegexFormat, Tag("<regex>")]
    | Annotated[GrammarFormat, Tag("<grammar>")]
    | Annotated[ChoiceFormat, Tag("<choice>")],
    Discriminator(
        _tag, custom_error_type=MUST, custom_error_message="must be an object with a type"
    ),
    AnyOf(),
]
