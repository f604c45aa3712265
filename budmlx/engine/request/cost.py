"""Cost of a prompt: how long it takes to make, judged by the characters that go into it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from budmlx.types import Message, Request, TextPart

# A message, and a value of JSON, take as long as so many characters, besides their own.
PER_MESSAGE = 64
PER_VALUE = 8


def exceeds(costs: Iterable[int], limit: int) -> bool:
    """Whether the sum is more than the limit. Looks no further than it must."""
    return any(total > limit for total in accumulate(costs))


def request_costs(request: Request) -> Iterator[int]:
    """The costs of the parts of a prompt, to be added up."""
    if request.messages is None:
        yield len(request.prompt or ())
        return
    yield from frame_costs(request)
    for message in request.messages:
        yield from message_costs(message)


def frame_costs(request: Request) -> Iterator[int]:
    """The costs of what is written besides the messages."""
    for tool in request.tools:
        yield from _costs([tool.name, tool.description, tool.parameters])
    yield from _costs(request.chat_template_kwargs)


def message_costs(message: Message) -> Iterator[int]:
    """The costs of the parts of a message."""
    yield PER_MESSAGE
    yield from _costs([message.name, message.tool_call_id, message.reasoning])
    parts = (message.content,) if isinstance(message.content, str) else message.content
    for part in parts:
        yield from _costs(part.text if isinstance(part, TextPart) else part)
    for call in message.tool_calls:
        yield from _costs([call.id, call.name, call.arguments])


def _costs(value: Any) -> Iterator[int]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        yield PER_VALUE + _length(value)


def _length(value: Any) -> int:
    """Characters of a value, without those of the values inside of it."""
    if isinstance(value, int):
        return value.bit_length() // 3
    return len(value) if isinstance(value, str) else 0
