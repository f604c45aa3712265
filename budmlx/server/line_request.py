"""Line request: a request that came in a file, for the handlers of the endpoints that take some."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from budmlx.engine.run.origin import RequestOrigin
from budmlx.server.errors import Failure, HttpError
from budmlx.server.openai_errors import error_response
from budmlx.server.records import ORIGIN
from budmlx.server.state import API_KEY, KEY_PRIORITY, KEYS, LEDGER, NAMESPACE

Value = TypeVar("Value")
Default = TypeVar("Default")


class LineRequest:
    """What a handler asks of a request beside its body. It runs in the background.

    owner: identifies the API key. origin: for records.

    Raises:
        HttpError: 401, the key is none any more.
    """

    headers: Mapping[str, str] = {}

    def __init__(self, app: web.Application, owner: str, origin: RequestOrigin):
        self.app = app
        self._values: dict[Any, Any] = {
            NAMESPACE: owner,
            KEY_PRIORITY: "background",
            ORIGIN: origin,
        }
        if owner:
            key = next((key for key in app[KEYS].all if key.sha256 == owner), None)
            if key is None or key.expired():
                raise HttpError(401, "The API key has ended.", code="invalid_api_key")
            self._values[API_KEY] = key
            origin.key, origin.account = key.name, app[LEDGER].account(key)

    def __getitem__(self, key: web.RequestKey[Value]) -> Value:
        value: Value = self._values[key]
        return value

    def get(self, key: web.RequestKey[Value], default: Default = None) -> Value | Default:  # type: ignore[assignment]
        """What stands under a key."""
        return self._values.get(key, default)  # type: ignore[no-any-return]


AnyRequest = web.Request | LineRequest

AnswerLine = Callable[[LineRequest, dict[str, Any], int], Awaitable[web.StreamResponse]]
"""Answers a body, which has so many bytes, as the endpoint does; the reply is whole."""


@dataclass(frozen=True, slots=True)
class LineEndpoint:
    """An endpoint that answers lines of files. error: the reply to the request of an id."""

    answer: AnswerLine
    error: Callable[[Failure, str], web.Response] = lambda failure, _: error_response(failure)


LINES: web.AppKey[dict[str, LineEndpoint]] = web.AppKey("lines")
"""Endpoints that answer lines of files, by their paths."""
