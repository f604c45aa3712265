"""Wire fields made from the declarations of `SamplingParams`."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, TypeVar, cast, get_type_hints

from pydantic import BaseModel, Field, create_model

from budmlx.server.wire import Int
from budmlx.types import PARAMETERS, RANGES, SamplingParams

Model = TypeVar("Model", bound=BaseModel)

HINTS = get_type_hints(SamplingParams)
WIRE_TYPES: dict[Any, Any] = {bool: bool, int: Int, float: float, int | None: Int}
"""The wire types for the types of fields. An explicit null is dropped before types matter."""

SCALARS = tuple(name for name, hint in HINTS.items() if hint in WIRE_TYPES)
"""The parameters that are one number or one switch, in order."""


def within(name: str) -> Any:
    """The range of a sampling parameter."""
    low, high = RANGES[name]
    return Field(ge=low, le=high)


def described(name: str, wire_form: str = "") -> Any:
    """The sentence on a sampling parameter. wire_form: a remark on the wire alone."""
    return Field(description=" ".join(filter(None, (PARAMETERS[name].sentence, wire_form))))


def with_scalars(model: type[Model]) -> type[Model]:
    """A class decorator: the model with a field for each of `SCALARS`, as it is declared.

    A model that inherits from it declares those fields again that have another form on the
    wire.
    """
    added = {
        field.name: _scalar(field.name, field.default)
        for field in fields(SamplingParams)
        if field.name in SCALARS
    }
    return create_model(
        model.__name__,
        __base__=model,
        __module__=model.__module__,
        __doc__=model.__doc__,
        **cast("dict[str, Any]", added),
    )


def _scalar(name: str, default: Any) -> tuple[Any, Any]:
    """Type and default of a field."""
    kind = WIRE_TYPES[HINTS[name]]
    if name in RANGES:
        kind = Annotated[kind, within(name)]
    if default is None:
        kind = kind | None
    return Annotated[kind, described(name)], default
