"""Bodies of requests: the fields that name a model, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from aiohttp import web
from pydantic import Field, model_validator

from budmlx.server.body import parsed
from budmlx.server.wire import Body

Parsed = TypeVar("Parsed")


async def read(
    request: web.Request, parse: Callable[[dict[str, Any]], Parsed]
) -> tuple[Parsed, int]:
    """The body, whatever its media type says, since many clients send none; and its length."""
    return await parsed(request, parse, untyped=True)


class NamedModel(Body):
    """A body that names a model by `model`, or by the older `name`."""

    name: str = Field("", description="The older name of `model`.")

    @model_validator(mode="before")
    @classmethod
    def _older_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("model") is None and data.get("name") is not None:
            return {**data, "model": data["name"]}
        return data
