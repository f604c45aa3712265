"""What all request bodies have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from pydantic import ValidationError

from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.openai.messages import WireModel
from budmlx.server.dialects.openai.params import Extras, bounded, ignored, review
from budmlx.server.errors import param_path


class Body(WireModel):
    """A body that names a model."""

    model: str

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Self:
        """Validate a body. Raises InvalidRequestError naming the first wrong parameter."""
        try:
            return cls.model_validate(body)
        except ValidationError as exc:
            raise _invalid(exc) from None

    def extras(self) -> Extras:
        """The fields that nothing here knows, with their places."""
        return [((), self.model_extra)] if self.model_extra else []

    def review(self, *, strict: bool, streaming: bool = False) -> list[str]:
        """Warnings about what has no effect. Raises InvalidRequestError, see `params.review`."""
        return bounded([*review(self.extras(), strict=strict), *self.overridden()])

    def overridden(self) -> Iterator[str]:
        """A warning for each field that another one goes before, if they differ."""
        return iter(())

    def other_name(self, name: str, winner: str) -> Iterator[str]:
        """The warning for a field that has two names, if both are given and differ."""
        if {name, winner} <= self.model_fields_set and getattr(self, name) != getattr(self, winner):
            yield ignored(name, winner)


def _invalid(exc: ValidationError) -> InvalidRequestError:
    """The first of the errors, in terms of the request."""
    first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    # Tags of unions are steps of pydantic's location, not of the client's.
    loc = [step for step in first["loc"] if not str(step).startswith("<")]
    param = param_path(loc)
    if first["type"] == "model_type":
        message = "input should be an object"
    else:
        message = first["msg"][:1].lower() + first["msg"][1:].split(" after validation")[0]
    return InvalidRequestError(f"`{param}`: {message}.", param=param)
