"""Wire models: strict types in which null is absent and unknown fields are kept for review."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Annotated, Any, ClassVar, LiteralString, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from budmlx.errors import InvalidRequestError
from budmlx.server.errors import param_path
from budmlx.server.unknown_fields import Extra, KnownFields, Loc, review

MAX_WARNINGS = 16


def _integral(value: Any) -> Any:
    """JSON has one kind of number: 1.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_integral)]
MAX_TEXT = 2**20
Text = Annotated[str, Field(max_length=MAX_TEXT)]
"""A text of at most 1,048,576 characters."""

MUST: LiteralString = "must"
"""The type of errors whose message follows the name of the parameter."""


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """An annotation: the message of every error of a type, in place of pydantic's.

    problem: follows the name of the parameter ("must be a text"). With another kind than `MUST`
    it is a sentence about the input, as pydantic's are.
    """

    problem: str
    kind: str = MUST

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """The schema of the type, with the error replaced."""
        return core_schema.custom_error_schema(
            handler(source), custom_error_type=self.kind, custom_error_message=self.problem
        )


class AnyOf:
    """An annotation: describes a union with tags as `anyOf`, since clients see no tags."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The schema of the union, renamed."""
        found = handler(schema)
        return {"anyOf": found.pop("oneOf"), **found}


def an_object(problem: LiteralString) -> BeforeValidator:
    """A validator with a message for anything but an object, whose fields its model checks."""

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise PydanticCustomError(MUST, problem)
        return value

    return BeforeValidator(check)


def a_filled_list(problem: LiteralString) -> BeforeValidator:
    """A validator with a message for anything but a list with something in it."""

    def check(value: Any) -> Any:
        if not value or not isinstance(value, list):
            raise PydanticCustomError(MUST, problem)
        return value

    return BeforeValidator(check)


UnreadText = Annotated[Any, WithJsonSchema({"type": "string"})]
UnreadFlag = Annotated[Any, WithJsonSchema({"type": "boolean"})]
"""Fields that are documented but never read, so that any value will do."""


class WireModel(BaseModel):
    """An object on the wire."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data

    def extras(self, loc: Loc = ()) -> Iterator[Extra]:
        """The fields that no model has, here and within, with their places. loc: of this."""
        if self.model_extra:
            yield loc, self.model_extra
        for name, value in self.__dict__.items():
            if isinstance(value, WireModel):
                yield from value.extras((*loc, name))
            elif isinstance(value, list):
                for index, item in enumerate(value):
                    if isinstance(item, WireModel):
                        yield from item.extras((*loc, name, index))

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The schema, in which null stands for every field that may be absent."""
        found = handler.resolve_ref_schema(handler(schema))
        for name, field in found.get("properties", {}).items():
            may_be_absent = "default" in field
            if field.get("default", ...) is None:
                del field["default"]
            if may_be_absent and {"type": "null"} not in field.get("anyOf", ()):
                kept = {key: field.pop(key) for key in ("default", "description") if key in field}
                found["properties"][name] = {**kept, "anyOf": [field, {"type": "null"}]}
        return found


MISSING = object()
"""Stands for a required field that is missing, and is of no type."""


class UniformErrors(WireModel):
    """A wire model whose required fields have the same `ErrorMessage`, missing or wrong."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        required = (name for name, field in cls.model_fields.items() if field.is_required())
        return {**data, **{name: MISSING for name in required if data.get(name) is None}}


class Body(WireModel):
    """A body that names a model. known: fields of the dialect that the models here lack."""

    known: ClassVar[KnownFields] = KnownFields()

    model: Annotated[
        str,
        Field(
            description="A name that `GET /v1/models` lists; the demo model answers to every name."
        ),
    ]

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Validate a body. Raises InvalidRequestError naming the first wrong parameter."""
        try:
            parsed = cls.model_validate(body)
        except ValidationError as exc:
            raise _invalid(exc) from None
        # What takes time with many messages is done here, which may be in a thread.
        _ = parsed.unknown
        return parsed

    @cached_property
    def unknown(self) -> list[Extra]:
        """All of `extras`."""
        return list(self.extras())

    def review(self, *, strict: bool, streaming: bool = False) -> list[str]:
        """Warnings about what has no effect.

        Raises InvalidRequestError, see `unknown_fields.review`.
        """
        unknown = (review(extra, self.known, strict=strict) for extra in self.unknown)
        warnings = [*chain.from_iterable(unknown), *self.overridden()]
        if "stream_options" in self.model_fields_set and not streaming:
            warnings.append("`stream_options` has no effect without `stream`.")
        return bounded(warnings)

    def overridden(self) -> Iterator[str]:
        """A warning for each field that another one overrides, if they differ."""
        return iter(())

    def other_name(self, name: str, winner: str) -> Iterator[str]:
        """The warning for a field that has two names, if both are given and differ."""
        if {name, winner} <= self.model_fields_set and getattr(self, name) != getattr(self, winner):
            yield ignored(name, winner)


def ignored(name: str, winner: str) -> str:
    """The warning about a field that has no effect because another one overrides it."""
    return f"`{name}` was ignored: `{winner}` goes before it."


def bounded(warnings: Sequence[str]) -> list[str]:
    """The first warnings, and how many more there are."""
    hidden = len(warnings) - MAX_WARNINGS
    return [*warnings[:MAX_WARNINGS], *([f"and {hidden} more"] if hidden > 0 else [])]


def _invalid(exc: ValidationError) -> InvalidRequestError:
    """The first of the errors, in terms of the request."""
    first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    # Tags of unions are steps of pydantic's location, not of the client's.
    loc = [step for step in first["loc"] if not str(step).startswith("<")]
    param = param_path(loc)
    if first["type"] == MUST:
        return InvalidRequestError(f"{param} {first['msg']}.", param=param)
    if first["type"] == "model_type":
        message = "input should be an object"
    else:
        message = first["msg"][:1].lower() + first["msg"][1:].split(" after validation")[0]
    return InvalidRequestError(f"`{param}`: {message}.", param=param)
