"""Message transforms of plugins, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial

from budmlx.engine.request.messages import parse_messages
from budmlx.errors import InvalidRequestError, PluginError
from budmlx.plugins.boundary import checked_text, wrong_type
from budmlx.plugins.hanging import HangingCalls
from budmlx.plugins.manager import Owned
from budmlx.plugins.specs import MessageTransform
from budmlx.types import Request

log = logging.getLogger(__name__)


def transformed(
    request: Request, transforms: Sequence[Owned[MessageTransform]], calls: HangingCalls
) -> Request:
    """The request with its messages as the transforms leave them. calls: makes the calls.

    Raises:
        InvalidRequestError: a transform refuses the request.
        PluginError: a transform failed, hung, or returned something other than messages.
    """
    messages = request.messages
    if messages is None:
        return request
    for each in transforms:
        result: object = calls.call(each.plugin, "message transform", partial(each.value, messages))
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
        checked_text(each.plugin, "message transform", "".join(_texts(messages)))
    return replace(request, messages=messages)


def _texts(value: object) -> Iterator[str]:
    """All texts in messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _texts(item)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _texts(getattr(value, each.name))
