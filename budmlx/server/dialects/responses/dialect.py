"""The Responses protocol, as the server uses it."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from multidict import CIMultiDictProxy

from budmlx.server.dialects.base import Dialect, bearer_keys
from budmlx.server.dialects.responses import create
from budmlx.server.endpoints import Endpoint
from budmlx.server.errors import Failure
from budmlx.server.openai_errors import Error, error_response


class Responses(Dialect):
    """See `Dialect`."""

    roots = ("/v1/responses", "/responses", "/v1/v1/responses")
    introduction = (
        "It speaks the Responses protocol, too, whose warnings are in the header "
        "`X-Budmlx-Warnings`, a JSON list."
    )
    error_reply = Error
    key_schemes = {"key": {"type": "http", "scheme": "bearer"}}
    key_help = "Send a valid API key as 'Authorization: Bearer KEY'."

    @property
    def endpoints(self) -> Iterable[Endpoint]:
        """Responses."""
        return create.endpoints

    def keys(self, headers: CIMultiDictProxy[str]) -> Iterable[str]:
        """The bearer token."""
        return bearer_keys(headers)

    def error(self, request: web.BaseRequest, failure: Failure) -> web.Response:
        """A JSON body with `error`, as OpenAI's."""
        return error_response(failure)

    def not_found(self, path: str) -> Failure:
        """A failure that names the endpoint there is."""
        return Failure(
            404, "There is no such endpoint; try POST /v1/responses.", code="unsupported_endpoint"
        )
