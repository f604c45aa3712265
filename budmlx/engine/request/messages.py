"""Messages of the Python API: from the shape of the protocol to values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from budmlx.engine.request.foreign_parts import ForeignPart, foreign_part
from budmlx.engine.text.tokenizer import check_text
from budmlx.errors import InvalidRequestError
from budmlx.types import ImagePart, Message, Part, Role, TextPart, ToolCall

ROLES: tuple[str, ...] = get_args(Role)
DETAILS = ("auto", "low", "high")
MAY_BE_EMPTY = ("assistant", "tool", "function")
URLS = ("data:", "http:", "https:")
FIELDS = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content"}
    | {"function_call", "prefix", "refusal"}
)


def parse_messages(raw: Sequence[Message | Mapping[str, Any]] | str) -> tuple[Message, ...]:
    """Messages from mappings in the chat-completions shape; a lone string is a user's.

    Keys that are null or empty count as absent, so that a reply can be sent back as it came; an
    assistant's content may be absent, and so may that of a tool.

    Raises:
        InvalidRequestError: `param` names the place, such as `messages[1].role`.
    """
    if isinstance(raw, str):
        return (_checked(Message(role="user", content=raw), "messages[0]"),)
    if isinstance(raw, Mapping | bytes) or not hasattr(raw, "__len__"):
        raise _error("messages", "must be a string or a list of messages")
    if not raw:
        raise InvalidRequestError("There must be at least one message.", param="messages")
    return tuple(_message(item, f"messages[{index}]") for index, item in enumerate(raw))


def _error(param: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} {problem}.", param=param)


def _message(item: Message | Mapping[str, Any], param: str) -> Message:
    if isinstance(item, Message):
        return _checked(item, param)
    if not isinstance(item, Mapping):
        raise _error(param, "must be a message or a mapping with role and content")
    given = {key: value for key, value in item.items() if value not in (None, "", [], {})}
    for key in given:
        if key not in FIELDS:
            known = ", ".join(sorted(FIELDS))
            raise _error(f"{param}.{key}", f"is not supported; a message has {known}")
    calls = _calls(given.get("tool_calls", []), f"{param}.tool_calls")
    if not calls and "function_call" in given:
        calls = (_call({"function": given["function_call"]}, f"{param}.function_call"),)
    if item.get("content") is None and item.get("role") not in MAY_BE_EMPTY:
        raise _error(f"{param}.content", "is missing")
    content, thought = _content(item.get("content"), f"{param}.content")
    reasoning = given.get("reasoning_content", given.get("reasoning")) or thought or None
    if thought not in ("", reasoning):
        raise _error(f"{param}.content", "must not hold other reasoning than the message")
    message = Message(
        role=cast(Role, item.get("role")),
        content=content or given.get("refusal", ""),
        name=given.get("name"),
        tool_calls=calls,
        tool_call_id=given.get("tool_call_id"),
        reasoning=reasoning,
        prefix=given.get("prefix", False),
    )
    return _checked(message, param)


def _content(value: Any, param: str) -> tuple[str | tuple[Part, ...], str]:
    """The content, and the reasoning that is among its parts."""
    if value is None or isinstance(value, str):
        return value or "", ""
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise _error(param, "must be a string or a list of parts")
    parts = [_part(part, f"{param}[{index}]") for index, part in enumerate(value)]
    thoughts = [part.thought for part in parts if isinstance(part, ForeignPart)]
    return tuple(part for part in parts if not isinstance(part, ForeignPart)), "".join(thoughts)


def _part(part: Any, param: str) -> Part | ForeignPart:
    if isinstance(part, TextPart | ImagePart):
        return part
    if not isinstance(part, Mapping):
        raise _error(param, 'must be a part such as {"type": "text", "text": "..."}')
    kind = part.get("type")
    if kind == "text":
        return TextPart(cast(str, part.get("text")))
    if kind == "image_url":
        image = part.get("image_url")
        given = image if isinstance(image, Mapping) else {"url": image}
        return _image(given.get("url"), given.get("detail"), f"{param}.image_url", "image_url.url")
    if kind == "image":
        return _image(part.get("image"), part.get("detail"), param, "image")
    foreign = foreign_part(part)
    if foreign.text:
        return TextPart(foreign.text)
    if foreign.thought:
        return foreign
    raise _error(f"{param}.type", 'must be "text", "image_url" or "image"')


def _image(source: Any, detail: Any, param: str, place: str) -> ImagePart:
    if source is None:
        raise _error(f"{param.removesuffix('.image_url')}.{place}", "is missing")
    if detail not in (None, *DETAILS):
        raise _error(f"{param}.detail", f"must be one of {', '.join(DETAILS)}")
    if place == "image" and isinstance(source, str) and not source.startswith(URLS):
        # Only callers in Python get here; the server makes its parts itself.
        source = Path(source)
    return ImagePart(source, detail or "auto", place)


def _calls(value: Any, param: str) -> tuple[ToolCall, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _error(param, "must be a list of tool calls")
    return tuple(_call(call, f"{param}[{index}]") for index, call in enumerate(value))


def _call(call: Any, param: str) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise _error(f"{param}.function", "is missing")
    arguments = function.get("arguments") or ""
    if isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(call.get("id") or "", cast(str, function.get("name")), arguments)


def _checked(message: Message, param: str) -> Message:
    """The message, if each of its fields holds what its type says."""
    if message.role not in ROLES:
        raise _error(f"{param}.role", f"must be one of {', '.join(ROLES)}")
    if not isinstance(message.prefix, bool):
        raise _error(f"{param}.prefix", "must be true or false")
    texts: dict[str, Any] = {}
    if isinstance(message.content, str):
        texts["content"] = message.content
    else:
        parts = enumerate(message.content)
        texts |= {f"content[{i}].text": p.text for i, p in parts if isinstance(p, TextPart)}
    optional = ("name", "tool_call_id", "reasoning")
    texts |= {k: v for k in optional if (v := getattr(message, k)) is not None}
    for index, call in enumerate(message.tool_calls):
        place = f"tool_calls[{index}]"
        texts[f"{place}.id"] = call.id
        texts[f"{place}.function.name"] = call.name
        texts[f"{place}.function.arguments"] = call.arguments
    for place, text in texts.items():
        if not isinstance(text, str):
            raise _error(f"{param}.{place}", "must be a string")
        check_text(text, f"{param}.{place}")
    return message
