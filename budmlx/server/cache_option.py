"""The field `cache` of a body: whether a reply is stored, and answered from what is stored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError

from budmlx.errors import InvalidRequestError
from budmlx.types import MAX_TTL, CachePolicy


def _cache(value: Any) -> CachePolicy:
    try:
        return CachePolicy.of(value)
    except InvalidRequestError:
        expected = 'Input should be true, false, "bypass" or {"ttl": seconds}'
        raise PydanticCustomError("cache", expected) from None


CacheOption = Annotated[
    CachePolicy,
    PlainValidator(_cache),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "boolean"},
                {"const": "bypass"},
                {
                    "type": "object",
                    "required": ["ttl"],
                    "properties": {
                        "ttl": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TTL}
                    },
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
