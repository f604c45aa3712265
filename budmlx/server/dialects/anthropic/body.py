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
    Effort,
    Instructions,
)
from budmlx.server.dialects.anthropic.errors import THREAD_CODE
from budmlx.server.dialects.anthropic.history import History, conversation
from budmlx.server.dialects.anthropic.tools import AnyTool, ChoiceOfTool, KnownTools
from budmlx.server.generation_body import MAX_STOP_CHARS, MAX_STOPS, GenerationBody
from budmlx.server.sealed import Sealer
from budmlx.server.unknown_fields import KnownFields
from budmlx.server.wire import Body, Int, UnreadFlag, UnreadText, WireModel
from budmlx.types import Request, ResponseFormat

MAX_MESSAGES = 4096
MOST_TOKENS = 2**63 - 1

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class Thinking(WireModel):
    """Whether the reply begins with reasoning. display: changes nothing; it is always sent."""

    type: Literal["adaptive", "enabled", "disabled", "between_tools"]
    budget_tokens: Annotated[Int, Field(ge=0)] | None = Field(
        None, description="Most tokens of reasoning; the answer follows then."
    )
    display: UnreadText = None


class OutputFormat(WireModel):
    """The form of the reply. Its schema is enforced."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(WireModel):
    """How much the model does, and the form of what it says."""

    effort: Effort | None = None
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
        yield from super().overridden()
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
        tools = known.callable(history.shown, self.tool_choice)
        history.warnings += known.warnings
        disabled = self.thinking is not None and self.thinking.type == "disabled"
        request = Request(
            messages=tuple(history.messages),
            tools=tools.tools,
            tool_choice=tools.choice,
            parallel_tool_calls=tools.parallel,
            response_format=self._format,
            reasoning="hidden" if disabled else "parsed",
            chat_template_kwargs=self._variables(history.names),
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

    def _variables(self, names: dict[str, str]) -> dict[str, Any]:
        """Variables for the chat template. names: gets the places that they come from."""
        variables: dict[str, Any] = {}
        efforts = [("", self.output_config.effort)] if self.output_config is not None else []
        for index, message in enumerate(self.messages):
            if message.output_config is not None:
                efforts.append((f"messages[{index}].", message.output_config.effort))
        for place, effort in efforts:
            if effort is not None:
                variables["reasoning_effort"] = effort
                names["reasoning_effort"] = f"{place}output_config.effort"
        if self.thinking is not None and self.thinking.type in ("enabled", "disabled"):
            variables["enable_thinking"] = self.thinking.type == "enabled"
            names["enable_thinking"] = "thinking.type"
        edits = self.context_management.edits if self.context_management is not None else []
        if any(edit.type.startswith("clear_thinking") and edit.keep == "all" for edit in edits):
            variables["clear_thinking"] = False
            names["clear_thinking"] = "context_management.edits"
        return variables


class MessagesRequest(ConversationBody, GenerationBody):
    """The body. Fields that are not of this protocol are this server's own."""

    max_tokens: Annotated[Int, Field(ge=1)] = Field(
        description="Most tokens of the reply; those that the context has room for at most."
    )
    stop_sequences: Annotated[list[Stop], Field(max_length=MAX_STOPS)] = Field(
        [], description="Texts that end the reply; `stop` is another name of it."
    )
    logprobs: UnreadFlag = Field(None, description="No effect: this protocol has none.")

    def overridden(self) -> Iterator[str]:
        """A warning for each field that has no effect."""
        yield from super().overridden()
        yield from self.other_name("stop", "stop_sequences")
        if self.logprobs:
            yield "`logprobs` has no effect here."

    def to_request(self, sealer: Sealer) -> tuple[Request, History]:
        """The request as a plain value, see `read`."""
        request, history = self.read(sealer)
        named: dict[str, Any] = {
            "max_tokens": min(self.max_tokens, MOST_TOKENS),
            "logprobs": None,
        }
        given = set(self.model_fields_set)
        if self.stop_sequences:
            named["stop"] = tuple(self.stop_sequences)
            given.add("stop")
        budget = self.thinking.budget_tokens if self.thinking is not None else None
        if budget is not None and "max_reasoning_tokens" not in given:
            named["max_reasoning_tokens"] = min(budget, MOST_TOKENS)
            history.names["max_reasoning_tokens"] = "thinking.budget_tokens"
            given.add("max_reasoning_tokens")
        request = replace(
            request,
            sampling=self.sampling(**named),
            given=frozenset(given),
            cache=self.cache,
            cache_salt=self.cache_salt,
            explain_cache=self.explain_cache,
            speculation=self.speculation,
        )
        return request, history


class CountTokensRequest(ConversationBody):
    """The body."""
