"""Tools, tool choices and response formats: what they mean, and how the Python API writes them.

The Python API takes the shapes of the chat-completions protocol. The server has shapes of its
own and shares the checks of what they mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from budmlx.errors import InvalidRequestError
from budmlx.types import ResponseFormat, Tool, ToolChoice

MAX_TOOLS = 128
MAX_TOOL_CHARACTERS = 256 * 2**10
MAX_CHOICES = 1024
NAME = "[a-zA-Z0-9_.-]{1,128}"
FORMATS = ("text", "json_object", "json_schema", "regex", "grammar", "choice")

NAME_PROBLEM = "must be 1 to 128 letters, digits, '_', '.' and '-'"
PARAMETERS_PROBLEM = 'must be a JSON schema of type "object"'
MODES = ("none", "auto", "required", "any")
CHOICE_PROBLEM = 'must be "none", "auto", "required" or name a function'
ALLOWED_MODE_PROBLEM = 'must be "auto" or "required"'
ALLOWED_TOOLS_PROBLEM = "must be a list of at least one tool"


def _error(param: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} {problem}.", param=param)


# Checks of tools and choices, shared by the Python API and the dialects.


def check_count(tools: Sequence[Any], param: str = "tools") -> None:
    """Raise InvalidRequestError if there are too many tools."""
    if len(tools) > MAX_TOOLS:
        raise _error(param, f"holds {len(tools)} tools; at most {MAX_TOOLS} are taken")


def check_names(tools: Sequence[Tool], param: str = "tools") -> None:
    """Raise InvalidRequestError if two tools have the same name."""
    names: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in names:
            raise _error(f"{param}[{index}]", f"has the name of another tool, {tool.name}")
        names.add(tool.name)


def checked_tool(tool: Tool, param: str) -> Tool:
    """The tool, its parameters with a type. param: where it stands, for errors.

    Raises:
        InvalidRequestError: the name or the schema cannot be used, or the tool is too long.
    """
    if not re.fullmatch(NAME, tool.name):
        raise _error(f"{param}.name", NAME_PROBLEM)
    parameters = tool.parameters
    if parameters.get("type", "object") != "object":
        raise _error(f"{param}.parameters", PARAMETERS_PROBLEM)
    size = len(tool.description) + len(_dumped(parameters, f"{param}.parameters"))
    if size > MAX_TOOL_CHARACTERS:
        raise _error(param, f"is longer than {MAX_TOOL_CHARACTERS} characters")
    if "type" not in parameters:
        return replace(tool, parameters={"type": "object", **parameters})
    return tool


def choice_of_mode(mode: str, tools: Sequence[Tool], param: str = "tool_choice") -> ToolChoice:
    """A choice from `none`, `auto`, `required`, or `any`, which means the same.

    Raises:
        InvalidRequestError: a call is required, but there are no tools.
    """
    if mode not in ("required", "any"):
        return ToolChoice("none" if mode == "none" else "auto")
    if not tools:
        raise _error(param, "requires a call, but there are no tools")
    return ToolChoice("required")


def choice_of_name(name: str, tools: Sequence[Tool], param: str = "tool_choice") -> ToolChoice:
    """The choice of one tool.

    Raises:
        InvalidRequestError: there is none of that name.
    """
    if all(name != tool.name for tool in tools):
        raise _error(f"{param}.function.name", f"names {name[:128]!r}, which is not in tools")
    return ToolChoice("required", name)


def choice_of_allowed(
    mode: str, names: Sequence[str], tools: Sequence[Tool], param: str = "tool_choice"
) -> ToolChoice:
    """The choice among some of the tools, by their names.

    Raises:
        InvalidRequestError: there is none of such a name.
    """
    known = {tool.name for tool in tools}
    for index, name in enumerate(names):
        if name not in known:
            place = f"{param}.allowed_tools.tools[{index}].function.name"
            raise _error(place, f"names {name[:128]!r}, which is not in tools")
    return ToolChoice("required" if mode == "required" else "auto", allowed=tuple(names))


def nested_choice(raw: Any) -> Any:
    """A choice in the shape of the protocol, from those that newer or other protocols have.

    `{"type": "auto"}` is "auto"; allowed tools may stand without an object around them.
    """
    if not isinstance(raw, Mapping):
        return raw
    kind = raw.get("type")
    if kind == "allowed_tools":
        listed = raw.get("allowed_tools", raw)
        if isinstance(listed, Mapping) and isinstance(tools := listed.get("tools"), list):
            listed = {**listed, "tools": [_nested_tool(tool) for tool in tools]}
        return {"type": kind, "allowed_tools": listed}
    if "function" in raw or "name" in raw:
        return raw
    return kind if isinstance(kind, str) else raw


def _nested_tool(raw: Any) -> Any:
    if isinstance(raw, Mapping) and "function" not in raw and "name" in raw:
        return {"type": "function", "function": {"name": raw["name"]}}
    return raw


# The shapes of the Python API.


def parse_tools(raw: Any, param: str = "tools") -> tuple[Tool, ...]:
    """Tools from `{"type": "function", "function": {...}}`, or from functions alone.

    Raises:
        InvalidRequestError: `param` names the tool, such as `tools[1].function.name`.
    """
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        raise _error(param, "must be a list of tools")
    check_count(raw, param)
    tools = tuple(_tool(item, f"{param}[{index}]") for index, item in enumerate(raw))
    check_names(tools, param)
    return tools


def _tool(item: Any, param: str) -> Tool:
    if isinstance(item, Tool):
        return item
    if not isinstance(item, Mapping):
        raise _error(param, "must be an object with a function")
    function: Any = item
    if "function" in item or "type" in item:
        if item.get("type", "function") != "function":
            raise _error(f"{param}.type", 'must be "function"')
        function, param = item.get("function"), f"{param}.function"
    if not isinstance(function, Mapping):
        raise _error(param, "must be an object")
    name, description = function.get("name"), function.get("description") or ""
    if not isinstance(name, str):
        raise _error(f"{param}.name", NAME_PROBLEM)
    if not isinstance(description, str):
        raise _error(f"{param}.description", "must be a string")
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise _error(f"{param}.parameters", PARAMETERS_PROBLEM)
    strict = function.get("strict") or False
    if not isinstance(strict, bool):
        raise _error(f"{param}.strict", "must be true or false")
    return checked_tool(Tool(name, description, parameters, strict), param)


def _dumped(value: Any, param: str) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise _error(param, "must be JSON of moderate depth") from error


def parse_tool_choice(raw: Any, tools: Sequence[Tool], param: str = "tool_choice") -> ToolChoice:
    """A choice from `none`, `auto`, `required` (or `any`), or from an object.

    The object has the name of a tool, allowed tools, or one of these words as its type.

    Raises:
        InvalidRequestError: it is something else, or names none of the tools.
    """
    if raw is None or isinstance(raw, ToolChoice):
        return raw or ToolChoice()
    raw = nested_choice(raw)
    if isinstance(raw, Mapping) and "allowed_tools" in raw:
        return _allowed(raw["allowed_tools"], tools, param)
    if isinstance(raw, Mapping):
        function = raw.get("function", raw)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str):
            raise _error(f"{param}.function.name", "must be the name of a tool")
        return choice_of_name(name, tools, param)
    if raw not in MODES:
        raise _error(param, CHOICE_PROBLEM)
    return choice_of_mode(raw, tools, param)


def _allowed(raw: Any, tools: Sequence[Tool], param: str) -> ToolChoice:
    place = f"{param}.allowed_tools"
    if not isinstance(raw, Mapping):
        raise _error(place, "must be an object")
    listed, mode = raw.get("tools"), raw.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise _error(f"{place}.mode", ALLOWED_MODE_PROBLEM)
    if not isinstance(listed, list) or not listed:
        raise _error(f"{place}.tools", ALLOWED_TOOLS_PROBLEM)
    names = []
    for index, item in enumerate(listed):
        function = item.get("function") if isinstance(item, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str):
            raise _error(f"{place}.tools[{index}].function.name", "must be the name of a tool")
        names.append(name)
    return choice_of_allowed(mode, names, tools, param)


def parse_response_format(raw: Any, param: str = "response_format") -> ResponseFormat | None:
    """A format from the protocol's shapes, or from a pydantic model class; None for text.

    Beyond the protocol there are `{"type": "regex", "regex": ...}`, `grammar` (Lark) and
    `choice` (a list of texts).

    Raises:
        InvalidRequestError: `param` names what is wrong.
    """
    if raw is None or isinstance(raw, ResponseFormat):
        return raw
    if isinstance(raw, type) and issubclass(raw, BaseModel):
        return ResponseFormat("json_schema", _closed(raw.model_json_schema()), param)
    if not isinstance(raw, Mapping):
        raise _error(param, "must be an object with a type")
    kind = raw.get("type")
    if kind not in FORMATS:
        raise _error(f"{param}.type", f"must be one of {', '.join(FORMATS)}")
    if kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat("json_object", param=param)
    if kind == "json_schema":
        return _json_schema(raw.get("json_schema"), f"{param}.json_schema")
    param, value = f"{param}.{kind}", raw.get(kind)
    if kind == "choice":
        texts = value if isinstance(value, list | tuple) else ()
        if not 0 < len(texts) <= MAX_CHOICES or not all(isinstance(t, str) and t for t in texts):
            raise _error(param, f"must be a list of 1 to {MAX_CHOICES} texts")
    elif not isinstance(value, str) or not value:
        raise _error(param, "must be a text")
    return ResponseFormat(kind, value, param)


def _closed(schema: Any) -> Any:
    """The schema without properties that it does not list, which a class would drop."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def _json_schema(raw: Any, param: str) -> ResponseFormat:
    if not isinstance(raw, Mapping):
        raise _error(param, "must be an object with a schema")
    schema = raw.get("schema")
    if schema is None:
        return ResponseFormat("json_object", param=param)
    if not isinstance(schema, Mapping | bool):
        raise _error(f"{param}.schema", "must be a JSON schema")
    _dumped(schema, f"{param}.schema")
    return ResponseFormat("json_schema", schema, f"{param}.schema")
