"""Bodies of this dialect: the conversation, how its reply is drawn, and what both mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.anthropic.content import (
    CacheControl,
    ConversationMessage,
    Instructions,
)
from budmlx.server.dialects.anthropic.errors import THREAD_CODE
from budmlx.server.dialects.anthropic.history import History, conversation
from budmlx.server.dialects.anthropic.tools import AnyTool, ChoiceOfTool, KnownTools
from budmlx.server.sealed import Sealer
from budmlx.server.unknown_fields import KnownFields
from budmlx.server.wire import Body, Int, UnreadText, WireModel
from budmlx.types import Request, ResponseFormat, SamplingParams

MAX_MESSAGES = 4096
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MOST_TOKENS = 2**31 - 1

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class Thinking(WireModel):
    """Whether the reply begins with reasoning. display: changes nothing; it is always sent."""

    type: Literal["adaptive", "enabled", "disabled", "between_tools"]
    budget_tokens: Int | None = None
    display: UnreadText = None


class OutputFormat(WireModel):
    """The form of the reply. Its schema is enforced."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(WireModel):
    """How much the model does, and the form of what it says."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class ContextEdit(WireModel):
    """A change of the history that a service would make."""

    type: str
    keep: Any = None


class ContextManagement(WireModel):
    """Changes of the history: that all reasoning is kept is the only one with an effect."""

    edits: list[ContextEdit] = []


class ConversationBody(Body):
    """What the prompt is made of."""

    known: ClassVar = KnownFields(
        without_effect=frozenset({"mcp_servers", "tools.input_examples", "messages.name"}),
        silent=frozenset(
            {"metadata", "service_tier", "container", "inference_geo", "speed", "diagnostics"}
            | {"fallbacks", "safeguards", "betas", "user_profile_id"}
            | {"messages.content.citations", "messages.content.content.citations"}
            | {"messages.content.caller", "system.citations", "tools.allowed_callers"}
        ),
    )

    messages: Annotated[
        list[ConversationMessage],
        Field(min_length=1, max_length=MAX_MESSAGES, description="The conversation so far."),
    ]
    system: Instructions = Field(
        "", description="Instructions. Lines of `x-anthropic-` headers at its beginning are cut."
    )
    tools: list[AnyTool] = Field([], description="Tools that the model may call.")
    tool_choice: ChoiceOfTool | None = Field(None, description="Whether it calls one, and which.")
    thinking: Thinking | None = Field(None, description="Whether it thinks first.")
    output_config: OutputConfig | None = Field(None, description="Effort, and form of the reply.")
    output_format: OutputFormat | None = Field(
        None, description="The older place of `output_config.format`, which takes precedence."
    )
    context_management: ContextManagement | None = Field(
        None, description="`clear_thinking` with `keep: all` keeps the reasoning of former turns."
    )
    cache_control: CacheControl | None = Field(None, description="Marks the end of the prompt.")
    thread: dict[str, Any] | None = Field(
        None, description="Threads are not kept here: refused, so that clients send all messages."
    )

    def overridden(self) -> Iterator[str]:
        """A warning for each field that has no effect."""
        thinking = self.thinking
        if thinking is not None and thinking.budget_tokens is not None:
            yield "`thinking.budget_tokens` has no effect here."
        config = self.output_config
        if self.output_format is not None and config is not None and config.format is not None:
            yield "`output_format` was ignored: `output_config.format` goes before it."

    def read(self, sealer: Sealer) -> tuple[Request, History]:
        """The request without sampling parameters, and where its messages came from.

        Raises InvalidRequestError naming what is wrong.
        """
        if self.thread is not None:
            raise InvalidRequestError("Threads are not kept here.", code=THREAD_CODE)
        known = KnownTools(self.tools)
        tools_marked = max((tool.marked for tool in self.tools), default=0.0)
        history = conversation(
            self.system, self.messages, known.by_name, sealer, marked=tools_marked
        )
        history.mark(0.0 if self.cache_control is None else self.cache_control.seconds)
        history.warnings += known.warnings
        tools = known.callable(history.shown, self.tool_choice)
        disabled = self.thinking is not None and self.thinking.type == "disabled"
        request = Request(
            messages=tuple(history.messages),
            tools=tools.tools,
            tool_choice=tools.choice,
            parallel_tool_calls=tools.parallel,
            response_format=self._format,
            reasoning="hidden" if disabled else "parsed",
            chat_template_kwargs=self._variables,
            breakpoints=tuple(history.breakpoints),
        )
        return request, history

    @property
    def _format(self) -> ResponseFormat | None:
        config, place = self.output_config, "output_config.format.schema"
        asked = config.format if config is not None else None
        if asked is None:
            asked, place = self.output_format, "output_format.schema"
        return None if asked is None else ResponseFormat("json_schema", asked.schema_, place)

    @property
    def _variables(self) -> dict[str, Any]:
        """Variables for the chat template."""
        variables: dict[str, Any] = {}
        configs = [self.output_config, *(message.output_config for message in self.messages)]
        if efforts := [each.effort for each in configs if each is not None and each.effort]:
            variables["reasoning_effort"] = efforts[-1]
        if self.thinking is not None and self.thinking.type in ("enabled", "disabled"):
            variables["enable_thinking"] = self.thinking.type == "enabled"
        edits = self.context_management.edits if self.context_management is not None else []
        if any(edit.type.startswith("clear_thinking") and edit.keep == "all" for edit in edits):
            variables["clear_thinking"] = False
        return variables


class MessagesRequest(ConversationBody):
    """The body. The last fields are this server's own."""

    max_tokens: Annotated[Int, Field(ge=1)] = Field(
        description="Most tokens of the reply; those that the context has room for at most."
    )
    stream: bool = Field(False, description="Answer with server-sent events.")
    stop_sequences: Annotated[list[Stop], Field(max_length=MAX_STOPS)] = Field(
        [], description="Texts that end the reply."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="Randomness; 0 is greedy.")
    top_p: float | None = Field(None, ge=0, le=1, description="Probability of the likeliest.")
    top_k: Annotated[Int, Field(ge=0, lt=2**31)] | None = Field(
        None, description="Number of the likeliest."
    )
    seed: Annotated[Int, Field(ge=-(2**63), lt=2**63)] | None = Field(
        None, description="The same seed gives the same reply."
    )
    cache_salt: str = Field("", max_length=256, description="Nothing is shared with other salts.")
    explain_cache: bool = Field(
        False, description="Say how much of the prompt's KV was reused, and why not more."
    )

    def sampling(self) -> SamplingParams:
        """The sampling parameters. Raises InvalidRequestError."""
        given = {
            name: value
            for name in ("temperature", "top_p", "top_k", "seed")
            if (value := getattr(self, name)) is not None
        }
        return SamplingParams(
            max_tokens=min(self.max_tokens, MOST_TOKENS), stop=tuple(self.stop_sequences), **given
        )

    def to_request(self, sealer: Sealer) -> tuple[Request, History]:
        """The request as a plain value, see `read`."""
        request, history = self.read(sealer)
        given = {"stop" if name == "stop_sequences" else name for name in self.model_fields_set}
        request = replace(
            request,
            sampling=self.sampling(),
            given=frozenset(given),
            cache_salt=self.cache_salt,
            explain_cache=self.explain_cache,
        )
        return request, history


class CountTokensRequest(ConversationBody):
    """The body."""
