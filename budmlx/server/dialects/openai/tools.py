"""Tools that a model may call, functions, their older name, and the choice between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic.json_schema import SkipJsonSchema, WithJsonSchema

from budmlx.engine.request import tools as checks
from budmlx.server.wire import (
    MUST,
    AnyOf,
    ErrorMessage,
    UniformErrors,
    a_filled_list,
    an_object,
    ignored,
)
from budmlx.types import Tool, ToolChoice

Name = Annotated[str, Field(json_schema_extra={"pattern": f"^{checks.NAME}$"})]
Kind = Literal["function"]


class Function(UniformErrors):
    """A function that the model may call. An empty value is the same as an absent one."""

    name: Annotated[Name, ErrorMessage(checks.NAME_PROBLEM)]
    description: Annotated[str | None, ErrorMessage("must be a string")] = None
    parameters: Annotated[
        dict[str, Any] | None,
        Field(description='JSON schema of the arguments, of type "object"; {} allows any object.'),
        ErrorMessage(checks.PARAMETERS_PROBLEM),
    ] = None
    strict: Annotated[
        bool | None,
        Field(description="Constrain the arguments to the schema while they are written."),
        ErrorMessage("must be true or false"),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value or key not in FIELDS}
        return data

    def to_tool(self, place: str) -> Tool:
        """The same function as a plain value. Raises InvalidRequestError, see `checked_tool`."""
        return checks.checked_tool(
            Tool(self.name, self.description or "", self.parameters or {}, self.strict or False),
            place,
        )


FIELDS = Function.model_fields.keys()


class FunctionTool(UniformErrors):
    """A tool: so far all of them are functions."""

    type: Annotated[Kind, ErrorMessage('must be "function"')]
    function: Annotated[Function, an_object("must be an object")]

    @model_validator(mode="before")
    @classmethod
    def _default_type(cls, data: Any) -> Any:
        return {"type": "function", **data} if isinstance(data, dict) else data

    def to_tool(self, place: str) -> Tool:
        """The same tool as a plain value. Raises InvalidRequestError, see `checked_tool`."""
        return self.function.to_tool(f"{place}.function")


def _tool_tag(item: Any) -> str | None:
    if not isinstance(item, dict):
        return None
    return "<tool>" if "function" in item or "type" in item else "<function>"


_BY_TAG = Discriminator(
    _tool_tag,
    custom_error_type=MUST,
    custom_error_message="must be an object with a function",
)
AnyTool = Annotated[
    Annotated[FunctionTool, Tag("<tool>")] | Annotated[SkipJsonSchema[Function], Tag("<function>")],
    _BY_TAG,
    AnyOf(),
]
OldTool = Annotated[
    Annotated[SkipJsonSchema[FunctionTool], Tag("<tool>")] | Annotated[Function, Tag("<function>")],
    _BY_TAG,
    AnyOf(),
]
MOST_TOOLS = Field(json_schema_extra={"maxItems": checks.MAX_TOOLS})
Tools = Annotated[list[AnyTool], MOST_TOOLS]
Functions = Annotated[list[OldTool], MOST_TOOLS]


class NamedFunction(UniformErrors):
    """The function to call."""

    name: Annotated[Name, ErrorMessage("must be the name of a tool")]


class NamedTool(UniformErrors):
    """The tool to call."""

    type: Annotated[Any, WithJsonSchema({"const": "function"})] = None  # It is never read.
    function: Annotated[NamedFunction, BeforeValidator(lambda v: v if isinstance(v, dict) else {})]


class AllowedTools(UniformErrors):
    """The tools that the model may call, and whether it must."""

    mode: Annotated[Literal["auto", "required"], ErrorMessage(checks.ALLOWED_MODE_PROBLEM)] = "auto"
    tools: Annotated[
        list[Annotated[NamedTool, an_object("must be an object")]],
        Field(json_schema_extra={"minItems": 1}),
        a_filled_list(checks.ALLOWED_TOOLS_PROBLEM),
    ]


class AllowedChoice(UniformErrors):
    """Some of the tools."""

    type: Annotated[Any, WithJsonSchema({"const": "allowed_tools"})] = None  # It is never read.
    allowed_tools: Annotated[AllowedTools, an_object("must be an object")]


class TypedFunction(NamedFunction):
    """The tool to call, without an object around its name."""

    type: SkipJsonSchema[Any] = None


Mode = Literal["none", "auto", "required", "any"]
_MODE = ErrorMessage(checks.CHOICE_PROBLEM)


def _choice_tag(choice: Any) -> str:
    if not isinstance(choice, dict):
        return "<mode>"
    if "allowed_tools" in choice:
        return "<allowed>"
    return "<tool>" if "function" in choice else "<function>"


NewChoice = Annotated[
    Annotated[Mode, _MODE, Tag("<mode>")]
    | Annotated[NamedTool, Tag("<tool>")]
    | Annotated[SkipJsonSchema[TypedFunction], Tag("<function>")]
    | Annotated[AllowedChoice, Tag("<allowed>")],
    Discriminator(_choice_tag),
    AnyOf(),
    BeforeValidator(checks.nested_choice),
]
OldChoice = Annotated[
    Annotated[Mode, _MODE, WithJsonSchema({"enum": ["none", "auto"]}), Tag("<mode>")]
    | Annotated[SkipJsonSchema[NamedTool], Tag("<tool>")]
    | Annotated[TypedFunction, Tag("<function>")],
    Discriminator(_choice_tag),
    AnyOf(),
]
AnyChoice = str | NamedTool | TypedFunction | AllowedChoice


@dataclass(frozen=True, slots=True)
class CallableTools:
    """The tools that the model may call. overridden: warnings about fields without effect."""

    tools: tuple[Tool, ...]
    choice: ToolChoice
    overridden: tuple[str, ...]


NO_TOOLS = CallableTools((), ToolChoice(), ())
"""The default where neither tools nor functions are given."""


def resolve_tools(
    tools: Sequence[FunctionTool | Function],
    tool_choice: AnyChoice | None,
    functions: Sequence[FunctionTool | Function],
    function_call: AnyChoice | None,
) -> CallableTools:
    """The tools and the choice from these fields. `tools` wins: some clients send both.

    Raises InvalidRequestError naming what is wrong, also where it would have no effect.
    """
    new, old = _tools(tools, "tools"), _tools(functions, "functions")
    by_tools = _choice(tool_choice, new or old, "tool_choice")
    by_functions = _choice(function_call, (*new, *old), "function_call")
    differ = by_tools != by_functions
    if old and not new:
        lost = differ and tool_choice is not None
        warning = "`tool_choice` has no effect on `functions`; `function_call` has."
        return CallableTools(old, by_functions, (warning,) if lost else ())
    overridden = []
    if old and old != new:
        overridden.append(ignored("functions", "tools"))
    if new and differ and function_call is not None:
        overridden.append("`function_call` has no effect on `tools`; `tool_choice` has.")
    return CallableTools(new, by_tools, tuple(overridden))


def _tools(given: Sequence[FunctionTool | Function], place: str) -> tuple[Tool, ...]:
    checks.check_count(given, place)
    tools = tuple(each.to_tool(f"{place}[{index}]") for index, each in enumerate(given))
    checks.check_names(tools, place)
    return tools


def _choice(given: AnyChoice | None, tools: Sequence[Tool], place: str) -> ToolChoice:
    if given is None:
        return ToolChoice()
    if isinstance(given, str):
        return checks.choice_of_mode(given, tools, place)
    if isinstance(given, AllowedChoice):
        names = [tool.function.name for tool in given.allowed_tools.tools]
        return checks.choice_of_allowed(given.allowed_tools.mode, names, tools, place)
    name = given.function.name if isinstance(given, NamedTool) else given.name
    return checks.choice_of_name(name, tools, place)
