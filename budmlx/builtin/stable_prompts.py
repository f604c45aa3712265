"""Stable prompts: strips header lines that coding agents put before prompts and change each time.

Claude Code begins its system prompt with a line such as
`x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch=36ee5;`
(https://github.com/anthropics/claude-code/issues/68900). It says nothing to the model, but a
prompt that begins differently every time never finds KV that can be reused. Off unless the
setting `plugin` names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from budmlx import hookimpl
from budmlx.plugins.specs import MessageTransform
from budmlx.types import Message, TextPart

# Only whole lines at the very beginning, so that prompts which talk of such lines keep them.
_HEADERS = re.compile(r"\A(?:[ \t]*x-anthropic-[a-z-]+:[^\n]*(?:\n|\Z))+\n*", re.IGNORECASE)


def strip_headers(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages, with header lines removed from the beginning of system messages."""
    return tuple(
        _stripped(message) if message.role in ("system", "developer") else message
        for message in messages
    )


def _stripped(message: Message) -> Message:
    if isinstance(message.content, str):
        return replace(message, content=_HEADERS.sub("", message.content))
    first, *rest = message.content
    if not isinstance(first, TextPart):
        return message
    text = _HEADERS.sub("", first.text)
    # A part of its own that held nothing else is left out, unless it is all there is.
    kept = [replace(first, text=text)] if text or not rest else []
    return replace(message, content=(*kept, *rest))


@hookimpl
def add_message_transforms() -> Iterable[MessageTransform]:
    """Offer `strip_headers`."""
    return [strip_headers]
