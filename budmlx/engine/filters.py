"""Message transforms and output filters of plugins, each call inside a guard."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from budmlx.engine.contained import within_time
from budmlx.engine.messages import parse_messages
from budmlx.errors import InvalidRequestError, PluginError
from budmlx.plugins.guard import guard, wrong_type
from budmlx.plugins.manager import Owned
from budmlx.plugins.specs import EndText, MessageTransform, OutputFilter, OutputFilterFactory
from budmlx.types import Request

log = logging.getLogger(__name__)


def transformed(request: Request, transforms: Sequence[Owned[MessageTransform]]) -> Request:
    """The request with its messages as the transforms leave them.

    Raises:
        InvalidRequestError: a transform refuses the request.
        PluginError: a transform failed, hung, or returned something else than messages.
    """
    messages = request.messages
    if messages is None:
        return request
    for each in transforms:
        result: object = within_time(
            each.plugin, "message transform", partial(each.value, messages)
        )
        if not isinstance(result, list | tuple):
            raise wrong_type(each.plugin, "message transform", result, "a list of messages")
        try:
            messages = parse_messages(result)
        except InvalidRequestError as error:
            log.error("Plugin %s returned a wrong message: %s", each.plugin, error.message)
            raise PluginError(
                f"The plugin {each.plugin} failed: its message transform returned "
                "something that is no message."
            ) from error
    return replace(request, messages=messages)


class FilterChain:
    """The output filters of one choice, each fed by the one before it.

    ended: a filter ended the text; nothing may be pushed any more.
    """

    def __init__(self, factories: Sequence[Owned[OutputFilterFactory]]):
        self.ended = False
        self._filters: list[Owned[OutputFilter]] = []
        for factory in factories:
            with guard(factory.plugin, "output filter"):
                self._filters.append(Owned(factory.plugin, factory.value()))

    def push(self, text: str, *, last: bool) -> str:
        """What of the new text may be shown now. Raises PluginError."""
        for each in self._filters:
            if not text and not last:
                break
            with guard(each.plugin, "output filter"):
                result = each.value.push(text, last)
            if isinstance(result, EndText):
                self.ended = last = True
                result = result.text
            if not isinstance(result, str):
                raise wrong_type(each.plugin, "output filter", result, "text")
            text = result
        return text
