"""Tools that a model may call, and the choice between them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema

from budmlx.engine.request import tools as checks
from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.anthropic.content import MarkedBlock
from budmlx.server.unknown_fields import Extra, Loc
from budmlx.server.wire import AnyOf, UnreadFlag, WireModel
from budmlx.types import Tool, ToolChoice


class ToolDefinition(MarkedBlock):
    """A tool that the client runs.

    defer_loading: it is not shown at the head of the prompt, but where it was found.
    """

    name: Annotated[str, Field(json_schema_extra={"pattern": f"^{checks.NAME}$"})]
    description: str = ""
    input_schema: Annotated[
        dict[str, Any], Field(description='JSON schema of the input, of type "object".')
    ]
    type: Literal["custom"] = "custom"
    strict: bool = False
    defer_loading: bool = False
    eager_input_streaming: UnreadFlag = None

    def to_tool(self, place: str) -> Tool:
        """The same tool as a plain value. Raises InvalidRequestError naming what is wrong."""
        tool = Tool(self.name, self.description, self.input_schema, self.strict)
        try:
            return replace(checks.checked_tool(tool, place), deferred=self.defer_loading)
        except InvalidRequestError as error:
            raise InvalidRequestError(
                error.message.replace(f"{place}.parameters", f"{place}.input_schema"),
                param=error.param and error.param.replace(".parameters", ".input_schema"),
            ) from None


class ServerTool(MarkedBlock):
    """A tool that a service would run. There is none here, so that the model sees none."""

    type: str
    name: str = ""

    def extras(self, loc: Loc = ()) -> Iterator[Extra]:
        """None: all of it is left out."""
        return iter(())


def _tag(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else None
    return "<tool>" if kind in (None, "custom") else "<server>"


AnyTool = Annotated[
    Annotated[ToolDefinition, Tag("<tool>")]
    | Annotated[SkipJsonSchema[ServerTool], Tag("<server>")],
    Discriminator(_tag),
    AnyOf(),
]


class ChoiceOfTool(WireModel):
    """Whether the model calls a tool, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool = False


@dataclass(frozen=True, slots=True)
class CallableTools:
    """The tools that the model may call. parallel: several at once."""

    tools: tuple[Tool, ...]
    choice: ToolChoice
    parallel: bool


class KnownTools:
    """The tools of a request, by name. warnings: a sentence on each that nobody here can run."""

    def __init__(self, given: Sequence[ToolDefinition | ServerTool]):
        """Raises InvalidRequestError naming what is wrong."""
        checks.check_count(given)
        tools: list[Tool] = []
        self.warnings: list[str] = []
        self._left_out: set[str] = set()
        for index, each in enumerate(given):
            if isinstance(each, ToolDefinition):
                tools.append(each.to_tool(f"tools[{index}]"))
            else:
                self._left_out.add(each.name)
                self.warnings.append(f"tools.{index} was left out: there is no {each.type} here.")
        checks.check_names(tools)
        self.by_name = {tool.name: tool for tool in tools}

    def callable(self, shown: Collection[str], choice: ChoiceOfTool | None) -> CallableTools:
        """The tools and the choice. shown: names of deferred ones that the conversation defines.

        Raises InvalidRequestError for a choice that there is not.
        """
        tools = tuple(
            tool for tool in self.by_name.values() if not tool.deferred or tool.name in shown
        )
        if choice is None:
            return CallableTools(tools, ToolChoice(), True)
        return CallableTools(
            tools, self._chosen(tools, choice), not choice.disable_parallel_tool_use
        )

    def _chosen(self, tools: Sequence[Tool], choice: ChoiceOfTool) -> ToolChoice:
        """The choice. What the model would have to call may not be here: it says what it can."""
        if choice.type == "tool":
            if choice.name in {tool.name for tool in tools}:
                return ToolChoice("required", choice.name)
            if choice.name in self._left_out:
                self.warnings.append(
                    "tool_choice has no effect: the tool that it names was left out."
                )
                return ToolChoice()
            raise InvalidRequestError(
                f"tool_choice.name names {choice.name[:128]!r}, which is not in tools.",
                param="tool_choice.name",
            )
        if choice.type == "any" and not tools and self._left_out:
            self.warnings.append("tool_choice has no effect: all tools were left out.")
            return ToolChoice()
        return checks.choice_of_mode(choice.type, tools)


def definition_text(tool: Tool) -> str:
    """The definition of a tool as chat templates write it."""
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    return json.dumps({"type": "function", "function": function}, ensure_ascii=False)
