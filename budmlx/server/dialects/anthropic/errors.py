"""Error bodies of this dialect, and the wording that its clients act upon."""

from __future__ import annotations

import re

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from budmlx.server.errors import Failure
from budmlx.server.json_reply import as_json
from budmlx.server.security import request_id

THREAD_CODE = "thread_unsupported_request"
"""Clients that begin a thread of messages send the whole conversation after this."""

OVERLOADED = 529
"""The status for what is 503 elsewhere. Clients repeat either."""

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}

STATUSES = {OVERLOADED: "Too many requests, or the model is not available now."}
"""Sentences on statuses that only this dialect has."""


class ErrorDetails(Struct, frozen=True):
    """What a client should do otherwise. unsupported: fields to leave out."""

    error_code: str
    unsupported: tuple[str, ...]


class ErrorOfMessages(Struct, frozen=True):
    """What is wrong. message: begins with the place in the request, such as `messages.2.role`."""

    type: str
    message: str
    details: ErrorDetails | UnsetType = UNSET

    @classmethod
    def of(cls, failure: Failure) -> ErrorOfMessages:
        """The same failure on the wire."""
        kind = TYPES.get(failure.status)
        if kind is None:
            kind = "invalid_request_error" if failure.status < 500 else "api_error"
        refused = failure.code == THREAD_CODE
        details = ErrorDetails(THREAD_CODE, ("thread",)) if refused else UNSET
        return cls(kind, _message(failure), details)


class MessagesError(Struct, frozen=True, tag_field="type", tag="error"):
    """The body of an error, and the last event of a stream that failed."""

    error: ErrorOfMessages
    request_id: str | UnsetType = UNSET


def error_response(request: web.BaseRequest, failure: Failure) -> web.Response:
    """The response to a request that failed before its reply began."""
    return error_reply(failure, request_id(request))


def error_reply(failure: Failure, own_id: str) -> web.Response:
    """The same for a request of this id."""
    return as_json(
        MessagesError(ErrorOfMessages.of(failure), own_id),
        {**failure.headers, "Request-Id": own_id},
        status=OVERLOADED if failure.status == 503 else failure.status,
    )


def _message(failure: Failure) -> str:
    """The message, behind the place that it is about."""
    if failure.too_long is not None:
        # Agents read these numbers and shorten their conversation.
        tokens, limit = failure.too_long
        return f"prompt is too long: {tokens} tokens > {limit - 1} maximum"
    text, param = failure.message, failure.param
    if param is not None:
        text = re.sub(rf"^`?{re.escape(param)}`?:? ", "", text)
        text = f"{param}: {text}"
    return re.sub(r"(?<=\w)\[(\d+)\]", r".\1", text)
