"""The messages protocol of Anthropic."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from multidict import CIMultiDictProxy

from budmlx.server.dialects.anthropic import create
from budmlx.server.dialects.anthropic.errors import MessagesError, error_response
from budmlx.server.dialects.base import Dialect, bearer_keys
from budmlx.server.endpoints import Endpoint, spellings
from budmlx.server.errors import Failure


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
        """Messages, and the tokens of messages."""
        return create.endpoints

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
            "There is no such endpoint here; try POST /v1/messages or "
            "POST /v1/messages/count_tokens.",
        )
