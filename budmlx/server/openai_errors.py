"""Error bodies in the form of OpenAI, for all dialects of its."""

from __future__ import annotations

from typing import Any, Self

from aiohttp import web
from msgspec import Struct

from budmlx.server.errors import Failure
from budmlx.server.json_reply import as_json

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorInfo(Struct, frozen=True):
    """What is wrong. param: where in the request, such as `messages[2].role`."""

    message: str
    type: str
    param: str | None
    code: str | None

    @classmethod
    def of(cls, failure: Failure) -> Self:
        """The same failure on the wire."""
        kind = TYPES.get(failure.status)
        if kind is None:
            kind = "invalid_request_error" if failure.status < 500 else "server_error"
        return cls(failure.message, kind, failure.param, failure.code)


class Error(Struct, frozen=True):
    """The body of an error: `error` for most clients, the other keys for some that need them."""

    error: ErrorInfo
    message: str
    description: str
    extras: dict[str, Any]
    key: None
    status_code: int

    @classmethod
    def of(cls, failure: Failure) -> Self:
        """The same failure on the wire."""
        info = ErrorInfo.of(failure)
        return cls(info, info.message, info.message, {}, None, failure.status)


class Problem(Struct, frozen=True):
    """One of the wrong parameters."""

    param: str | None
    message: str


class InvalidError(Error, frozen=True, kw_only=True):
    """The body of a 422."""

    errors: tuple[Problem, ...]


def error_response(failure: Failure) -> web.Response:
    """The response to a request that failed before its reply began."""
    return as_json(error_body(failure), failure.headers, status=failure.status)


def error_body(failure: Failure) -> Error:
    """The body of a failure."""
    body = Error.of(failure)
    if failure.status != 422:
        return body
    problem = Problem(failure.param, failure.message)
    fields = {name: getattr(body, name) for name in body.__struct_fields__}
    return InvalidError(**fields, errors=(problem,))


class StreamError(Struct, frozen=True):
    """The last event of a stream that failed."""

    error: ErrorInfo
    status_code: int

    @classmethod
    def of(cls, failure: Failure) -> Self:
        """The same failure on the wire."""
        return cls(ErrorInfo.of(failure), failure.status)
