"""The fields that requests for chats and for completions have in common."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from budmlx.server.declared import described
from budmlx.server.dialects.openai.body import KNOWN
from budmlx.server.dialects.openai.response_format import WireFormat
from budmlx.server.generation_body import GenerationBody
from budmlx.server.wire import Int, WireModel

MAX_CHOICES = 16


class StreamOptions(WireModel):
    """How a stream tells things. incremental_tool_calls: arguments come piece by piece."""

    include_usage: bool = False
    incremental_tool_calls: bool | None = None


class GenerationRequest(GenerationBody):
    """The fields of every body of this dialect that asks for generated text."""

    known: ClassVar = KNOWN

    stream_options: StreamOptions | None = Field(
        None, description="How a stream tells its usage and its tool calls."
    )
    max_tokens: Annotated[Annotated[Int, Field(ge=1)] | None, described("max_tokens")] = None
    n: Annotated[Int, Field(ge=1, le=MAX_CHOICES)] = Field(
        1, description="How many choices; they share one prefill."
    )
    response_format: WireFormat | None = Field(
        None,
        description="The form of the content, enforced while it is written. No effect on a "
        "forced call.",
    )
