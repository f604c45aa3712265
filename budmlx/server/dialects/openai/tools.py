"""Tools and their older name, functions: what a chat request asks for, and what it says twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from budmlx.engine.request.tools import parse_tool_choice, parse_tools
from budmlx.server.dialects.openai.params import Extra, beyond, ignored
from budmlx.types import Tool, ToolChoice

NAME = frozenset({"name"})
FUNCTION = NAME | {"description", "parameters", "strict"}


@dataclass(frozen=True, slots=True)
class Calls:
    """What the model may call. overridden: warnings about what had no effect on that."""

    tools: tuple[Tool, ...]
    choice: ToolChoice
    overridden: tuple[str, ...]

    @property
    def forced(self) -> bool:
        """Whether the reply is to be a call."""
        return self.choice.mode == "required"


def parse_calls(
    tools: list[Any], tool_choice: Any, functions: list[Any], function_call: Any
) -> Calls:
    """The fields of the same names. Tools win: some clients send both.

    Raises InvalidRequestError naming what is wrong, also where it would have no effect.
    """
    new, old = parse_tools(tools), parse_tools(functions, "functions")
    by_tools = parse_tool_choice(tool_choice, new or old)
    by_functions = parse_tool_choice(function_call, (*new, *old), "function_call")
    differ = by_tools != by_functions
    if old and not new:
        lost = differ and tool_choice is not None
        warning = "`tool_choice` has no effect on `functions`; `function_call` has."
        return Calls(old, by_functions, (warning,) if lost else ())
    overridden = []
    if old and old != new:
        overridden.append(ignored("functions", "tools"))
    if new and differ and function_call is not None:
        overridden.append("`function_call` has no effect on `tools`; `tool_choice` has.")
    return Calls(new, by_tools, tuple(overridden))


def beyond_calls(
    tools: list[Any], tool_choice: Any, functions: list[Any], function_call: Any
) -> Iterator[Extra]:
    """The fields within those that nothing here knows, with their places."""
    for param, items in (("tools", tools), ("functions", functions)):
        for index, item in enumerate(items):
            yield from _beyond(item, FUNCTION, param, index)
    for param, choice in (("tool_choice", tool_choice), ("function_call", function_call)):
        yield from _beyond(choice, NAME, param)


def _beyond(raw: Any, function: frozenset[str], *loc: str | int) -> Iterator[Extra]:
    """The unknown fields of a function and of the object around it, if there is one."""
    if isinstance(raw, Mapping) and "function" in raw:
        yield from beyond(raw, {"type", "function"}, *loc)
        yield from beyond(raw["function"], function, *loc, "function")
    else:
        yield from beyond(raw, function | {"type"}, *loc)
