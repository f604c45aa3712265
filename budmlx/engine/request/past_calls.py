"""Calls of earlier replies: with ids, arguments and turns that a chat template takes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from budmlx.engine.request.arguments import (
    completed,
    is_object,
    object_in,
    with_whole_characters,
)
from budmlx.engine.template.probes import CallFeatures
from budmlx.errors import InvalidRequestError
from budmlx.types import Message, ToolCall

MAX_BROKEN = 262_144
"""Characters of broken arguments in a request, since mending them takes time."""
SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
RESULTS = ("tool", "function")


def with_usable_calls(
    messages: Sequence[Message], features: CallFeatures, notes: list[str]
) -> list[Message]:
    """The messages, with ids and arguments that the template takes; each stays in its place.

    notes: gets a sentence for each change of what was meant.

    Raises:
        InvalidRequestError: too many arguments are broken; `param` names a place.
    """
    usable: list[Message] = []
    mender = _Mender(features, notes)
    ids = _Ids(features)
    for index, message in enumerate(messages):
        if message.tool_calls:
            place = f"messages[{index}].tool_calls"
            calls = [
                replace(
                    call,
                    id=ids.of_call(call, f"{index}.{number}"),
                    arguments=mender.arguments(
                        call.arguments, f"{place}[{number}].function.arguments"
                    ),
                )
                for number, call in enumerate(message.tool_calls)
            ]
            message = replace(message, tool_calls=tuple(calls))
        elif message.role in RESULTS:
            message = replace(message, tool_call_id=ids.of_result(message.tool_call_id))
        usable.append(message)
    return usable


class _Ids:
    """Ids of calls and their results, made of those that the history has.

    The same id becomes the same one in every request, so that prompts begin alike.
    """

    def __init__(self, features: CallFeatures):
        self._features = features
        self._count = 0
        self._waiting: list[tuple[str, str]] = []
        self._known: dict[str, str] = {}

    def of_call(self, call: ToolCall, place: str) -> str:
        made = self._made(call, place)
        self._count += 1
        self._waiting.append((call.id, made))
        self._known[call.id] = made
        return made

    def _made(self, call: ToolCall, place: str) -> str:
        if self._features.short_ids and not SHORT_ID.fullmatch(call.id):
            return hashlib.sha256((call.id or place).encode()).hexdigest()[:9]
        if self._features.named_by_id:
            named = re.fullmatch(rf"(?:functions\.)?{re.escape(call.name)}(?::\d+)?", call.id)
            return call.id if named else f"functions.{call.name}:{self._count}"
        return call.id or f"call_{place}"

    def of_result(self, given: str | None) -> str | None:
        """The id of the call that a result answers; the next one that waits if it has none."""
        fitting = (n for n, (old, _) in enumerate(self._waiting) if not given or old in (given, ""))
        place = next(fitting, None)
        if place is None:
            return self._known.get(given or "", given)
        return self._waiting.pop(place)[1]


class _Mender:
    """Makes objects of broken arguments. notes: gets a sentence for each."""

    def __init__(self, features: CallFeatures, notes: list[str]):
        self._features = features
        self._notes = notes
        self._left = MAX_BROKEN

    def arguments(self, text: str, place: str) -> str:
        """Arguments that the template takes. place: what errors and notes call them."""
        if not text.strip():
            return text
        if is_object(text):
            whole = with_whole_characters(text)
            if whole != text:
                self._notes.append(f"{place} holds half of a character, which became U+FFFD.")
            return whole
        self._left -= len(text)
        if self._left < 0:
            raise InvalidRequestError(
                f"{place} is not the text of a JSON object, and too long to be mended. Correct it, "
                "or leave the call out.",
                param=place,
            )
        usable, problem = self._mended(text)
        self._notes.append(f"{place} {problem}.")
        return usable

    def _mended(self, text: str) -> tuple[str, str]:
        """Usable arguments, and what was done."""
        meant = object_in(text)
        if meant is not None:
            return meant, "is not the text of a JSON object; it was read as one"
        if self._features.takes_json:
            return text, "is not the text of a JSON object; the model sees it as it is"
        meant = completed(text)
        if meant is not None:
            meant = with_whole_characters(meant)
            return meant, "is a JSON object that was cut off; its end was added"
        whole = json.dumps({"arguments": text}, ensure_ascii=False)
        return whole, "is not the text of a JSON object; it became the value of `arguments`"


def in_turns(messages: Sequence[Message], features: CallFeatures) -> list[Message]:
    """The messages, with turns of several calls, or of calls beside content, split where the
    template would lose a part of them. Each call is followed by its result."""
    if not features.written:
        return [_as_text(message, features) for message in messages]
    turns: list[Message] = []
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        if not message.tool_calls:
            turns.append(message)
            continue
        *before, calling = _apart(message, features)
        turns += before
        if features.several or len(calling.tool_calls) == 1:
            turns.append(calling)
            continue
        end = position
        while end < len(messages) and messages[end].role in RESULTS:
            end += 1
        turns += _one_by_one(calling, messages[position:end])
        position = end
    return turns


def _apart(message: Message, features: CallFeatures) -> list[Message]:
    """A message with calls, and before it its content where that cannot stand beside them."""
    if not message.text:
        return [message]
    if not features.with_content:
        said = replace(message, tool_calls=())
        return [said, replace(message, content="", reasoning=None)]
    if message.reasoning and not features.reasoning_with_content:
        return [replace(message, content="", reasoning=f"{message.reasoning}\n\n{message.text}")]
    return [message]


def _one_by_one(message: Message, results: Sequence[Message]) -> Iterator[Message]:
    """A message for each call, followed by its result."""
    waiting = list(results)
    for number, call in enumerate(message.tool_calls):
        part = replace(message, tool_calls=(call,))
        yield part if number == 0 else replace(part, content="", reasoning=None)
        own = next((each for each in waiting if each.tool_call_id == call.id), None)
        if own is not None:
            waiting.remove(own)
            yield own
    yield from waiting


def _as_text(message: Message, features: CallFeatures) -> Message:
    """A message for a template that writes no calls: they are its text."""
    if message.role in RESULTS and not features.results:
        return replace(message, role="user", name=None, tool_call_id=None)
    if not message.tool_calls:
        return message
    calls = [
        f'{{"name": {json.dumps(c.name)}, "arguments": {c.arguments or "{}"}}}'
        for c in message.tool_calls
    ]
    text = "\n".join([*([message.text] if message.text else []), *calls])
    return replace(message, content=text, tool_calls=())
