"""Body of this dialect: what its parameters without effect are, and types that bodies share."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from budmlx.server import wire
from budmlx.server.unknown_fields import KnownFields
from budmlx.server.wire import Int

PromptId = Annotated[Int, Field(json_schema_extra={"minimum": 0})]
"""A token id, whose range is checked against the vocabulary."""


KNOWN = KnownFields(
    neutral={
        "safe_prompt": (False,),
        "modalities": (["text"],),
        "audio": (),
        "web_search_options": (),
        "suffix": ("",),
        "grammar_root": (),
        "return_raw_tokens": (False,),
    },
    without_effect=frozenset(
        {"user", "store", "metadata", "prediction", "prompt_cache_key", "safety_identifier"}
        | {"verbosity", "response_format.json_schema.description"}
        | {"stream_options.include_obfuscation"}
    ),
)


class Body(wire.Body):
    """A body that names a model."""

    known: ClassVar = KNOWN
