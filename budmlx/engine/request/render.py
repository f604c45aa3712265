"""Rendering: messages to token ids through the chat template.

Users' text must not structure the conversation, whatever control tokens it spells. The
template renders it as it is, and that is encoded, unless it holds more control tokens than
the template wrote. To learn those the template renders again, with the brackets in users'
text veiled: whatever is still a control token then is the template's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from budmlx.engine.request.history import history_for
from budmlx.engine.template.probes import THINKING_PART, Json
from budmlx.engine.template.template import ChatTemplate
from budmlx.engine.text.control_tokens import Span, strings
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import InvalidRequestError
from budmlx.types import Message, Part, TextPart, Tool, ToolCall


def check_results(messages: Sequence[Message]) -> None:
    """Refuse results of tools that were not called. Ids are compared where both sides have them.

    Raises:
        InvalidRequestError: `param` names the message.
    """
    called: set[str] = set()
    any_call = False
    for index, message in enumerate(messages):
        if message.tool_calls:
            any_call = True
            called.update(call.id for call in message.tool_calls)
        if message.role not in ("tool", "function"):
            continue
        unknown = message.tool_call_id and "" not in called and message.tool_call_id not in called
        if not any_call or unknown:
            param = f"messages[{index}]"
            raise InvalidRequestError(
                f"{param} is the result of a call that no assistant message before it makes.",
                param=param,
            )


def check_prefix(messages: Sequence[Message]) -> None:
    """Refuse to continue what is not the beginning of the assistant's reply.

    Raises:
        InvalidRequestError: `param` names the message's prefix.
    """
    for index, message in enumerate(messages):
        begins = index == len(messages) - 1 and message.role == "assistant"
        if message.prefix and (not begins or message.tool_calls):
            param = f"messages[{index}].prefix"
            raise InvalidRequestError(
                f"{param} can only be set on the last message, if that is an assistant's without "
                "tool calls.",
                param=param,
            )


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    chat_template_kwargs: Mapping[str, Any],
    *,
    tools: Sequence[Tool] = (),
    placeholder: str = "",
) -> list[int]:
    """Token ids of a conversation, up to where the assistant's reply begins or continues.

    tools: those that are listed at its head.
    placeholder: text of the token that stands for a picture; it is written once for each.

    Raises:
        InvalidRequestError: there are no messages, the template refuses them, or a variable
            is not one that the template reads.
        OverloadedError: see `ChatTemplate.render`.
    """
    if not messages:
        raise InvalidRequestError("There must be at least one message.", param="messages")
    template = tokenizer.template(tools=bool(tools))
    template.check_kwargs(chat_template_kwargs)
    chat_template_kwargs, _ = template.with_known_effort(chat_template_kwargs)
    if not template.takes(messages):
        messages = history_for(template, messages).messages
    shows = any(message.shows_images for message in messages)
    if shows and not template.takes_images(placeholder):
        template = template.marking(placeholder)
    turns = [_turn(message, template) for message in messages]
    if messages[-1].prefix:
        template = template.continuing()
        turns[-1] = _with_end(turns[-1], template.end)
    extra = {**chat_template_kwargs, "tools": [_definition(t, template) for t in tools] or None}
    ids = _encode(tokenizer, template, turns, extra)
    return [*tokenizer.prefix_ids, *ids] if template.plain else ids


def _encode(
    tokenizer: Tokenizer, template: ChatTemplate, turns: list[Json], extra: Json
) -> list[int]:
    """Ids of the rendered turns, with the control tokens of an honest conversation."""
    ids = tokenizer.encode(template.render(turns, **extra), add_special=False)
    control = tokenizer.control
    veil = control.veil_for("\0".join(strings([turns, extra])))
    if veil is None:
        return ids
    hidden = veil.cover(extra)
    for reading in _readings(turns, template):
        blind = template.render(veil.cover(reading), **hidden)
        if control.among(ids) == control.written_in(blind):
            return ids
    # Some tokenizers do not recognise all that is written, so that this one must say.
    honest = _ids(control.recognised(veil.blank(blind)))
    if control.among(ids) == honest:
        return ids
    # Earlier replies keep their reasoning where possible, since templates drop it.
    partly = [turn if turn["role"] == "assistant" else veil.cover(turn) for turn in reading]
    for text in (template.render(partly, **hidden), blind):
        spans = control.recognised(veil.blank(text))
        if _ids(spans) == honest:
            ids = control.encode_spans(veil.lift(text), spans)
            if control.among(ids) == honest:
                return ids
    raise InvalidRequestError(
        "The messages hold control tokens of the model that its tokenizer cannot write as text. "
        "Remove them.",
        param="messages",
    )


def _ids(spans: Sequence[Span]) -> list[int]:
    return [token_id for _, _, token_id in spans]


def _readings(turns: list[Json], template: ChatTemplate) -> list[list[Json]]:
    """The turns, and the turns with reasoning apart, where the template supports that."""
    apart = turns
    if template.parts_think_tags:
        apart = [_reasoning_apart(turn, template.calls.reasoning) for turn in turns]
    return [turns] if apart == turns else [turns, apart]


def _reasoning_apart(turn: Json, key: str) -> Json:
    """An assistant's turn with reasoning that stood in its content in a field of its own.

    The tags then are the template's, so that they may be control tokens.
    """
    content = turn["content"]
    if turn["role"] != "assistant" or not isinstance(content, str) or "</think>" not in content:
        return turn
    reasoning, _, rest = content.partition("</think>")
    # The opening tag may have been part of the prompt.
    reasoning = reasoning.lstrip().removeprefix("<think>").strip("\n")
    return {**turn, key: reasoning, "content": rest.lstrip("\n")}


def _turn(message: Message, template: ChatTemplate) -> Json:
    """A message in the shape that templates read.

    Lists of parts reach the template only in user messages: for the other roles many
    templates that take lists look at the first part alone.
    """
    content: str | list[Json] = message.text
    parts = () if isinstance(message.content, str) else message.content
    if message.shows_images and template.mark:
        content = "".join(_marked(part, template.mark) for part in parts)
    elif message.shows_images or (parts and template.takes_parts and message.role == "user"):
        content = [_part(part) for part in parts]
    elif not template.takes_text:
        content = [{"type": "text", "text": message.text}]
    turn: Json = {"role": template.role(message.role), "content": content}
    if message.reasoning is not None and template.calls.reasoning:
        turn = _with_reasoning(turn, message.reasoning, template.calls.reasoning)
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = [_call(call, template) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _with_reasoning(turn: Json, reasoning: str, key: str) -> Json:
    """A turn with reasoning where the template reads it."""
    if key != THINKING_PART:
        return {**turn, key: reasoning}
    content = turn["content"]
    if isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    return {**turn, "content": [{"type": "thinking", "thinking": reasoning}, *content]}


def _with_end(turn: Json, end: str) -> Json:
    """A turn whose text is followed by `end`, which keeps templates from trimming it there."""
    content = turn["content"]
    if isinstance(content, str):
        return {**turn, "content": content + end}
    return {**turn, "content": [*content, {"type": "text", "text": end}]}


def _part(part: Part) -> Json:
    return {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}


def _marked(part: Part, mark: str) -> str:
    """A part as text, for templates that know no pictures."""
    return part.text if isinstance(part, TextPart) else f"{mark}\n"


def _definition(tool: Tool, template: ChatTemplate) -> Json:
    """A tool in the shape that templates read."""
    described = tool.description or template.wants_descriptions
    description = {"description": tool.description} if described else {}
    parameters = dict(tool.parameters if tool.shown is None else tool.shown)
    function = {"name": tool.name, **description, "parameters": parameters}
    return {"type": "function", "function": function}


def _call(call: ToolCall, template: ChatTemplate) -> Json:
    arguments: Any = call.arguments
    if template.calls.takes_objects:
        try:
            parsed = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            parsed = None
        arguments = parsed if isinstance(parsed, dict) else call.arguments
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}
