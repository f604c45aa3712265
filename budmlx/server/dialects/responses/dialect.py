"""The Responses protocol, as the server uses it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from aiohttp import web
from multidict import CIMultiDictProxy

from budmlx.engine.store.store import Limits
from budmlx.server.dialects.base import Dialect, bearer_keys
from budmlx.server.dialects.responses import count, create, stored
from budmlx.server.dialects.responses.jobs import Jobs
from budmlx.server.dialects.responses.kept import KeptResponses
from budmlx.server.dialects.responses.state import JOBS, KEPT
from budmlx.server.endpoints import Endpoint
from budmlx.server.errors import Failure
from budmlx.server.line_request import LINES, LineEndpoint
from budmlx.server.openai_errors import Error, error_response
from budmlx.server.state import CONFIG, STORE


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
        """To make responses, and those that are stored."""
        return chain(create.endpoints, count.endpoints, stored.endpoints)

    def set_up(self, app: web.Application) -> None:
        """Keep responses in the server's store, and end those in the background with it."""
        config = app[CONFIG]
        limits = Limits(
            config.store_max_responses, config.store_max_size, config.store_max_days * 86_400
        )
        app[KEPT] = KeptResponses(app[STORE], limits)
        app[JOBS] = jobs = Jobs()
        app.on_cleanup.append(jobs.close)
        app[LINES]["/v1/responses"] = LineEndpoint(create.answer_line)

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
