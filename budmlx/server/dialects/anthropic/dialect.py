"""The messages protocol of Anthropic."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from aiohttp import web
from multidict import CIMultiDictProxy

from budmlx.server.dialects.anthropic import batches, create
from budmlx.server.dialects.anthropic.errors import MessagesError, error_reply, error_response
from budmlx.server.dialects.base import Dialect, bearer_keys
from budmlx.server.endpoints import Endpoint, spellings
from budmlx.server.errors import Failure
from budmlx.server.line_request import LINES, LineEndpoint


class Anthropic(Dialect):
    """See `Dialect`."""

    roots = spellings("/v1/messages", "/v1")
    introduction = (
        "It speaks Anthropic's messages protocol, too, below `/v1/messages`. What has no effect is "
        "listed in the header `X-Budmlx-Warnings`."
    )
    error_reply = MessagesError
    key_schemes = {"x-api-key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}}
    key_help = "Send a valid API key as 'X-Api-Key: KEY' or 'Authorization: Bearer KEY'."

    @property
    def endpoints(self) -> Iterable[Endpoint]:
        """Messages, the tokens of messages, and batches of messages."""
        return chain(create.endpoints, batches.endpoints)

    def set_up(self, app: web.Application) -> None:
        """Let lines of files ask for messages."""
        app[LINES][batches.MESSAGES] = LineEndpoint(create.answer_line, error_reply)

    def keys(self, headers: CIMultiDictProxy[str]) -> Iterable[str]:
        """Both headers, since clients send either or both."""
        given = headers.getall("X-Api-Key", [])
        return [*(given if len(given) == 1 else []), *bearer_keys(headers)]

    def error(self, request: web.BaseRequest, failure: Failure) -> web.Response:
        """A JSON body with `error`, whose message agents understand."""
        return error_response(request, failure)

    def not_found(self, path: str) -> Failure:
        """A failure that names the endpoints there are."""
        return Failure(
            404,
            "There is no such endpoint here; try POST /v1/messages, "
            "POST /v1/messages/count_tokens or POST /v1/messages/batches.",
        )
