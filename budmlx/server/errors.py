"""Failures: exceptions as HTTP, before a dialect encodes them."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiohttp import web

from budmlx.errors import (
    BudmlxError,
    CancelledError,
    ContextLengthError,
    EngineClosedError,
    EngineUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    QuotaError,
)

log = logging.getLogger(__name__)

RETRY_SECONDS = 1
"""Seconds in `Retry-After` when the error itself has none."""

PATIENCE_SECONDS = 600
"""A client that has to wait longer should not try again by itself."""

HOPELESS = {"X-Should-Retry": "false"}
"""Clients repeat a request after 429 and 500 unless this says that it would fail again."""

STATUS: dict[type[BudmlxError], int] = {
    InvalidRequestError: 400,
    ModelNotFoundError: 404,
    OverloadedError: 503,
    QuotaError: 429,
    EngineUnavailableError: 503,
    EngineClosedError: 503,
    CancelledError: 503,
}
"""The status of an error is that of its nearest listed ancestor, else 500."""

MESSAGES = {
    400: "The request is not valid HTTP.",
    404: "There is no such endpoint.",
    405: "This endpoint does not take that method; the Allow header lists those it takes.",
    413: "The request body is too large.",
    417: "Only 'Expect: 100-continue' is understood.",
    500: "The server failed to answer this request; its log says more.",
}
"""Messages for errors that are raised below our own code."""


class HttpError(BudmlxError):
    """The transport refuses a request with a status of its own."""

    def __init__(
        self, status: int, message: str, *, code: str | None, headers: dict[str, str] | None = None
    ):
        super().__init__(message, code=code)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as clients may see it, in no protocol yet.

    too_long: of a prompt that is: its tokens, and those that it may have with its completion.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    too_long: tuple[int, int] | None = None


def failure_of(exc: BaseException) -> Failure:
    """Describe any exception to a client; an unexpected one is logged and not quoted."""
    if isinstance(exc, HttpError):
        return Failure(exc.status, exc.message, exc.param, exc.code, exc.headers)
    if isinstance(exc, BudmlxError):
        status = next((STATUS[kind] for kind in type(exc).__mro__ if kind in STATUS), 500)
        retry_after = exc.retry_after if isinstance(exc, EngineUnavailableError | QuotaError) else 0
        hopeless = status == 500 or retry_after > PATIENCE_SECONDS
        headers = dict(HOPELESS) if hopeless else {}
        if status in (429, 503):
            headers["Retry-After"] = str(max(retry_after, RETRY_SECONDS))
        too_long = None
        if isinstance(exc, ContextLengthError) and exc.limit:
            too_long = exc.tokens, exc.limit
        return Failure(status, exc.message, exc.param, exc.code, headers, too_long)
    if isinstance(exc, web.HTTPException):
        allow = exc.headers.get("Allow")
        message = MESSAGES.get(exc.status, MESSAGES[500 if exc.status >= 500 else 400])
        return Failure(exc.status, message, headers={"Allow": allow} if allow else {})
    if isinstance(exc, web.RequestPayloadError):
        return Failure(400, "The request body could not be decoded.", code="bad_body")
    log_unexpected(exc)
    return Failure(500, MESSAGES[500], code="internal_error", headers=dict(HOPELESS))


def log_unexpected(exc: BaseException) -> None:
    """Log where an exception came from. Its message, which may quote a prompt, is for debugging."""
    frames = traceback.extract_tb(exc.__traceback__)[-5:]
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    log.error("Unexpected %s in %s", type(exc).__qualname__, where)
    log.debug("What was raised:", exc_info=exc)


def param_path(loc: Sequence[str | int]) -> str | None:
    """Write a location as `messages[2].role`; None for the whole body."""
    path = ""
    for step in loc:
        path += f"[{step}]" if isinstance(step, int) else f".{step[:64]}"
    return path.removeprefix(".")[:256] or None
