"""Strict body: requests whose fields are all known and of the right type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from budmlx.config.explain import explain
from budmlx.errors import InvalidRequestError


class StrictBody(BaseModel):
    """A body whose fields all have the right type, and no others."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Validate a body. Raises InvalidRequestError naming the first wrong parameter."""
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            param = ".".join(map(str, error.errors()[0]["loc"])) or None
            text = explain(error, names=cls.model_fields)
            raise InvalidRequestError(f"{text}.", param=param) from None
