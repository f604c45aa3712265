"""The chat-completions protocol, as OpenAI's, Mistral's, Cerebras' and Bud's clients speak it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain

from aiohttp import web
from multidict import CIMultiDictProxy

from budmlx.server.dialects.base import Dialect, bearer_keys
from budmlx.server.dialects.openai import (
    batches,
    chat,
    completions,
    decisions,
    embeddings,
    estimate,
    files,
    fim,
    rerank,
    tokens,
)
from budmlx.server.dialects.openai.quirks import understood
from budmlx.server.endpoints import Endpoint
from budmlx.server.errors import Failure
from budmlx.server.line_request import LINES, LineEndpoint
from budmlx.server.openai_errors import Error, error_response

ELSEWHERE = re.compile(
    r"(/v1)*/(classify|images|audio|confidential|nodes|uploads|fine_tuning"
    r"|moderations|auth|budpipeline|prompts|clusters|benchmark|audit|a2a"
    r"|events|event-triggers)(/.*)?"
)
"""Endpoints of the services whose clients are served here that this server lacks."""


class OpenAI(Dialect):
    """See `Dialect`."""

    introduction = (
        "It speaks the chat-completions protocol. Paths under `/v1` answer without that prefix and "
        "under `/v1/v1`, too. An explicit null is the same as an absent field. A parameter is "
        "honoured, refused with 400 that names it, or listed in `warnings`."
    )
    error_reply = Error
    key_schemes = {"key": {"type": "http", "scheme": "bearer"}}
    key_help = "Send a valid API key as 'Authorization: Bearer KEY'."

    @property
    def endpoints(self) -> Iterable[Endpoint]:
        """Chats, raw texts, vectors, rankings, tokens, what chats would take, files and batches."""
        modules = (
            *(chat, completions, fim, embeddings, rerank, decisions, tokens, estimate),
            *(files, batches),
        )
        return chain.from_iterable(module.endpoints for module in modules)

    def set_up(self, app: web.Application) -> None:
        """Let lines of files ask the endpoints that batches are for."""
        app[LINES] |= {
            "/v1/chat/completions": LineEndpoint(chat.answer_line),
            "/v1/completions": LineEndpoint(completions.answer_line),
            "/v1/embeddings": LineEndpoint(embeddings.answer_line),
        }

    def keys(self, headers: CIMultiDictProxy[str]) -> Iterable[str]:
        """The bearer token, if there is exactly one Authorization header."""
        return bearer_keys(headers)

    def error(self, request: web.BaseRequest, failure: Failure) -> web.Response:
        """A JSON body with `error`, and a status that the client understands."""
        return error_response(understood(request, failure))

    def not_found(self, path: str) -> Failure:
        """A failure that names the endpoints there are, or the one that is missing on purpose.

        The status is 404, since clients repeat a request after 501.
        """
        match = ELSEWHERE.fullmatch(path)
        if match is None:
            return Failure(
                404,
                "There is no such endpoint; try POST /v1/chat/completions or GET /v1/models.",
            )
        return Failure(
            404,
            f"This server has no {match[2]} endpoint. It offers POST /v1/chat/completions, "
            "POST /v1/completions and GET /v1/models.",
            code="unsupported_endpoint",
        )
