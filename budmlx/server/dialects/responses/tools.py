"""Tools of a request, the choice between them, and how their calls are told.

A template knows functions alone. So a custom tool, whose input is any text, is a function with that
text as its only argument, and the functions of a namespace stand beside all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema

from budmlx.engine.request import tools as checks
from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.responses.lark import NotRegularError
from budmlx.server.dialects.responses.regular import RegularForm, regular_form
from budmlx.server.unknown_fields import Extra, Loc
from budmlx.server.wire import AnyOf, ErrorMessage, Text, UniformErrors, WireModel, an_object
from budmlx.types import Tool, ToolChoice

Name = Annotated[str, Field(json_schema_extra={"pattern": f"^{checks.NAME}$"})]
INPUT = "input"


def _flat(value: Any) -> Any:
    """A function without an object around it, as chat completions have."""
    if isinstance(value, dict) and isinstance(function := value.get("function"), dict):
        return {**{key: v for key, v in value.items() if key != "function"}, **function}
    return value


class FunctionDefinition(UniformErrors):
    """A function that the model may call."""

    type: Literal["function"]
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

    def to_tool(self, name: str, place: str) -> Tool:
        """The function as a plain value. Raises InvalidRequestError, see `checked_tool`."""
        given = Tool(name, self.description or "", self.parameters or {}, self.strict or False)
        return checks.checked_tool(given, place)


class CustomFormat(WireModel):
    """The form of a custom tool's input: any text, or a text of a grammar."""

    type: Literal["text", "grammar"] = "text"
    syntax: Literal["lark", "regex"] = "lark"
    definition: Text | None = None

    def form(self, place: str) -> RegularForm | None:
        """The regular expression that the input must match as a whole; None for any text.

        Raises:
            InvalidRequestError: there is no definition.
            NotRegularError: no regular expression can be made of the grammar.
        """
        if self.type == "text":
            return None
        if not self.definition:
            raise InvalidRequestError(
                f"{place}.definition must be a text.", param=f"{place}.definition"
            )
        if self.syntax == "regex":
            return RegularForm(self.definition)
        return regular_form(self.definition)


class CustomDefinition(UniformErrors):
    """A tool whose input is a text."""

    type: Literal["custom"]
    name: Annotated[Name, ErrorMessage(checks.NAME_PROBLEM)]
    description: Annotated[str | None, ErrorMessage("must be a string")] = None
    format: CustomFormat | None = None

    def to_tool(self, name: str, place: str, pattern: str | None) -> Tool:
        """A function with the input as its argument. Raises InvalidRequestError.

        pattern: what the input must match as a whole.
        """
        shown = _with_input({"type": "string"})
        parameters = shown
        if pattern is not None:
            parameters = _with_input({"type": "string", "pattern": pattern})
        description = self.description or ""
        if self.format is not None and self.format.definition:
            form = f"The input is a text of this {self.format.syntax} grammar:"
            description = f"{description}\n\n{form}\n{self.format.definition}".lstrip()
        strict = pattern is not None
        # The description has the grammar, of which the pattern is a form that nobody can read.
        return checks.checked_tool(Tool(name, description, parameters, strict, shown=shown), place)


def _with_input(text: Mapping[str, str]) -> Mapping[str, Any]:
    return {
        "type": "object",
        "properties": {INPUT: text},
        "required": [INPUT],
        "additionalProperties": False,
    }


class OtherDefinition(WireModel):
    """A tool that a server of OpenAI runs itself."""

    type: str

    def extras(self, loc: Loc = ()) -> Iterator[Extra]:
        """None: the whole tool is reported."""
        return iter(())


def _tool_tag(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    if kind in ("function", "custom", "namespace"):
        return f"<{kind}>"
    return "<other>" if isinstance(kind, str) else "<function>"


_BY_TAG = Discriminator(_tool_tag)
_Function = Annotated[
    FunctionDefinition, an_object("must be an object with a function"), Tag("<function>")
]
_Custom = Annotated[CustomDefinition, Tag("<custom>")]
_Other = Annotated[SkipJsonSchema[OtherDefinition], Tag("<other>")]


class Namespace(UniformErrors):
    """Tools that belong together; a call of one tells the name of the namespace, too."""

    type: Literal["namespace"]
    name: Annotated[Name, ErrorMessage(checks.NAME_PROBLEM)]
    description: Annotated[str | None, ErrorMessage("must be a string")] = None
    tools: list[Annotated[_Function | _Custom | _Other, _BY_TAG, AnyOf(), BeforeValidator(_flat)]]


AnyTool = Annotated[
    _Function | _Custom | Annotated[Namespace, Tag("<namespace>")] | _Other,
    _BY_TAG,
    AnyOf(),
    BeforeValidator(_flat),
]
MOST_TOOLS = Field(json_schema_extra={"maxItems": checks.MAX_TOOLS})
ToolList = Annotated[list[AnyTool], MOST_TOOLS]


class ChosenTool(WireModel):
    """The tool to call."""

    type: Literal["function", "custom"]
    name: Annotated[Name, ErrorMessage("must be the name of a tool")]
    namespace: str | None = None


class AllowedTool(WireModel):
    """One of the tools that the model may call."""

    type: str
    name: str | None = None
    namespace: str | None = None


class AllowedChoice(WireModel):
    """The tools that the model may call, and whether it must."""

    type: Literal["allowed_tools"]
    mode: Annotated[Literal["auto", "required"], ErrorMessage(checks.ALLOWED_MODE_PROBLEM)] = "auto"
    tools: list[AllowedTool]


class OtherChoice(WireModel):
    """A tool that a server of OpenAI runs itself."""

    type: str


def _choice_tag(choice: Any) -> str:
    if not isinstance(choice, dict):
        return "<mode>"
    kind = choice.get("type")
    if kind in ("function", "custom"):
        return "<tool>"
    return "<allowed>" if kind == "allowed_tools" else "<other>"


Choice = Annotated[
    Annotated[
        Literal["none", "auto", "required", "any"],
        ErrorMessage(checks.CHOICE_PROBLEM),
        Tag("<mode>"),
    ]
    | Annotated[ChosenTool, Tag("<tool>")]
    | Annotated[AllowedChoice, Tag("<allowed>")]
    | Annotated[SkipJsonSchema[OtherChoice], Tag("<other>")],
    Discriminator(_choice_tag),
    AnyOf(),
    BeforeValidator(_flat),
]


@dataclass(frozen=True, slots=True)
class CalledTool:
    """How a tool that the model calls is told: its own name, its namespace, and its kind."""

    name: str
    namespace: str | None = None
    custom: bool = False


class Toolbox:
    """The tools of a request, as the model sees them and as its calls are told.

    tools: for the model. warnings: one for each tool that is left out. Raises InvalidRequestError
    naming what is wrong.
    """

    def __init__(self, given: Sequence[Any]):
        self.warnings: list[str] = []
        self._callables: dict[str, CalledTool] = {}
        self._names: dict[tuple[str | None, str], str] = {}
        callables = (FunctionDefinition, CustomDefinition)
        self._outside = {each.name for each in given if isinstance(each, callables)}
        tools: list[Tool] = []
        for index, each in enumerate(given):
            place = f"tools[{index}]"
            if not isinstance(each, Namespace):
                tools += self._tools(each, place, None)
                continue
            for inner, function in enumerate(each.tools):
                tools += self._tools(function, f"{place}.tools[{inner}]", each.name)
        checks.check_count(tools)
        self.tools = tuple(tools)

    def _tools(
        self,
        each: FunctionDefinition | CustomDefinition | OtherDefinition,
        place: str,
        namespace: str | None,
    ) -> Iterator[Tool]:
        """The tool as the model sees it, unless it is one that is left out."""
        if isinstance(each, OtherDefinition):
            self.warnings.append(f"`{place}` was left out: there is no tool {each.type} here.")
            return
        name = each.name
        taken = name in self._callables
        if namespace is not None and (taken or name in self._outside):
            name = f"{namespace}.{name}"
            taken = name in self._callables or (namespace, each.name) in self._names
        if taken:
            raise InvalidRequestError(f"{place} has the name of another tool, {name}.", param=place)
        self._names[namespace, each.name] = name
        custom = isinstance(each, CustomDefinition)
        self._callables[name] = CalledTool(each.name, namespace, custom)
        if isinstance(each, CustomDefinition):
            yield each.to_tool(name, place, self._pattern(each, f"{place}.format"))
        else:
            yield each.to_tool(name, place)

    def _pattern(self, each: CustomDefinition, place: str) -> str | None:
        """What the input of a custom tool must match; None if it is not constrained."""
        try:
            found = None if each.format is None else each.format.form(place)
        except NotRegularError as error:
            self.warnings.append(f"`{place}` is not enforced: {error}.")
            return None
        if found is None:
            return None
        if found.depth is not None:
            self.warnings.append(
                f"`{place}` is enforced down to {found.depth} rules within each other; deeper "
                "texts are not written."
            )
        return f"^(?:{found.regex})$"

    def called(self, name: str) -> CalledTool:
        """How a call by the model is told."""
        return self._callables.get(name) or CalledTool(name)

    def name_of(self, name: str, namespace: str | None) -> str:
        """What the model calls a tool of the history."""
        return self._names.get((namespace, name), name)

    def choice(self, given: Any) -> ToolChoice:
        """The use of the tools. Raises InvalidRequestError naming what is wrong."""
        if given is None:
            return ToolChoice()
        if isinstance(given, str):
            if given in ("required", "any") and not self.tools and self.warnings:
                return ToolChoice()
            return checks.choice_of_mode(given, self.tools)
        if isinstance(given, OtherChoice):
            self.warnings.append(f"`tool_choice` was ignored: there is no tool {given.type} here.")
            return ToolChoice()
        if isinstance(given, ChosenTool):
            return ToolChoice("required", self._known(given, "tool_choice"))
        named = [(n, each) for n, each in enumerate(given.tools) if each.name is not None]
        names = tuple(self._known(each, f"tool_choice.tools[{n}]") for n, each in named)
        if not names:
            raise InvalidRequestError(
                f"tool_choice.tools {checks.ALLOWED_TOOLS_PROBLEM}.", param="tool_choice.tools"
            )
        return ToolChoice("required" if given.mode == "required" else "auto", allowed=names)

    def _known(self, given: ChosenTool | AllowedTool, place: str) -> str:
        name = given.name or ""
        found = self._names.get((given.namespace, name))
        if found is None and name in self._callables:
            return name
        if found is None:
            raise InvalidRequestError(
                f"{place}.name names {name[:128]!r}, which is not in tools.", param=f"{place}.name"
            )
        return found


def input_of(arguments: str) -> str:
    """The input of a custom tool, from the arguments with which the model called it."""
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    value = found.get(INPUT) if isinstance(found, dict) else found
    return value if isinstance(value, str) else arguments


def arguments_of(text: str) -> str:
    """The arguments with which the model called a custom tool."""
    return json.dumps({INPUT: text}, ensure_ascii=False)
