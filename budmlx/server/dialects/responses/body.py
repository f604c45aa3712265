"""The body of `POST /v1/responses`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from budmlx.server.declared import within
from budmlx.server.dialects.responses.items import Items
from budmlx.server.dialects.responses.text_format import TextOptions
from budmlx.server.dialects.responses.tools import Choice, ToolList
from budmlx.server.generation_body import GenerationBody
from budmlx.server.unknown_fields import KnownFields
from budmlx.server.wire import Int, Text, UnreadFlag, WireModel
from budmlx.types import SamplingParams

MAX_ITEMS = 4096
MAX_METADATA = 16
LOGPROBS = "message.output_text.logprobs"
REASONING = "reasoning.encrypted_content"

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Summary = Literal["auto", "concise", "detailed", "none"]


class ReasoningOptions(WireModel):
    """How to reason, and whether to tell it as a summary; generate_summary: the older name."""

    effort: Effort | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None

    @property
    def as_summary(self) -> bool:
        """Whether the reasoning is told as a summary."""
        return (self.summary or self.generate_summary or "none") != "none"


class StreamOptions(WireModel):
    """include_obfuscation: changes nothing."""

    include_obfuscation: UnreadFlag = None


class ResponsesRequest(GenerationBody):
    """The body."""

    known: ClassVar = KnownFields(
        neutral={"conversation": (), "prompt": ()},
        without_effect=frozenset({"max_tool_calls", "context_management", "moderation"}),
        silent=frozenset(
            {"prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"}
            | {"client_metadata", "safety_identifier"}
        ),
    )

    input: Annotated[
        Items,
        Field(
            min_length=1,
            max_length=MAX_ITEMS,
            description="A text, or the items of the conversation so far.",
        ),
    ]
    instructions: Text | None = Field(
        None, description="Goes before the input; not kept for later responses."
    )
    max_output_tokens: Annotated[Int, Field(ge=1)] | None = Field(
        None, description="Most tokens of the reply, reasoning included; clamped to the context."
    )
    max_tokens: Annotated[Int, Field(ge=1)] | None = Field(
        None, description="Another name of `max_output_tokens`, which takes precedence."
    )
    logprobs: Annotated[Int, within("logprobs")] | None = Field(
        None, description="Another name of `top_logprobs`, which takes precedence."
    )
    tools: ToolList = Field([], description="Functions, namespaces of functions, and custom tools.")
    tool_choice: Choice | None = Field(None, description="Whether the model calls one.")
    parallel_tool_calls: bool = Field(True, description="It may call several at once.")
    text: TextOptions = Field(
        TextOptions(), description="The form of the text, enforced while it is written."
    )
    reasoning: ReasoningOptions = Field(
        ReasoningOptions(),
        description="`effort` is for the chat template; `summary` tells the reasoning as one.",
    )
    include: list[str] = Field(
        [],
        description=f"`{LOGPROBS}` reports log probabilities, `{REASONING}` is there anyway; all "
        "else is ignored with a warning.",
    )
    top_logprobs: Annotated[Int, within("logprobs")] | None = Field(
        None, description="So many of the most likely tokens at each place; implies logprobs."
    )
    store: bool = Field(
        True, description="Keep the response, for `previous_response_id` and to be asked for."
    )
    previous_response_id: str | None = Field(
        None, description="A stored response, whose input and output go before the input."
    )
    background: bool = Field(
        False, description="Go on without a connection; ask for the response by its id."
    )
    metadata: Annotated[dict[str, str], Field(max_length=MAX_METADATA)] = Field(
        {}, description="Comes back with the response."
    )
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="`auto` has no effect: an input that is too long is refused."
    )
    user: str | None = Field(None, description="Comes back with the response.")
    stream_options: StreamOptions | None = Field(None, description="Changes nothing.")
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="Further variables for the chat template."
    )

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Variables for the chat template."""
        effort = self.reasoning.effort
        short: dict[str, Any] = {} if effort is None else {"reasoning_effort": effort}
        if effort == "none":
            short["enable_thinking"] = False
        return {**short, **self.chat_template_kwargs}

    @property
    def given(self) -> frozenset[str]:
        """The sampling parameters that the client gave, by the names of `SamplingParams`."""
        names = self.model_fields_set
        return frozenset(names | ({"max_tokens"} if "max_output_tokens" in names else set()))

    def overridden(self) -> Iterator[str]:
        """A warning for each field that another one overrides, if they differ."""
        yield from super().overridden()
        yield from self.other_name("max_tokens", "max_output_tokens")
        yield from self.other_name("logprobs", "top_logprobs")
        if self.truncation == "auto":
            yield "`truncation` has no effect here: an input that is too long is refused."
        for index, name in enumerate(self.include):
            if name not in (LOGPROBS, REASONING):
                yield f"`include[{index}]` has no effect: {name[:128]} is not known here."

    def to_sampling(self) -> SamplingParams:
        """The sampling parameters. Raises InvalidRequestError for combinations."""
        logprobs = self.logprobs if self.top_logprobs is None else self.top_logprobs
        if logprobs is None and LOGPROBS in self.include:
            logprobs = 0
        return self.sampling(
            max_tokens=self.max_output_tokens or self.max_tokens, logprobs=logprobs
        )
