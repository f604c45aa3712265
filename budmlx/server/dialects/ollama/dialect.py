"""The protocol of Ollama, as its own clients, editors and launchers speak it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain

from aiohttp import web
from multidict import CIMultiDictProxy

from budmlx.server.dialects.base import Dialect, bearer_keys
from budmlx.server.dialects.ollama import chat, embed, files, generate, listing
from budmlx.server.dialects.ollama.reply import OllamaError
from budmlx.server.endpoints import Endpoint
from budmlx.server.errors import HOPELESS, Failure
from budmlx.server.json_reply import as_json

ELSEWHERE = {
    "copy": "models have no copies; give one another name with --alias",
    "create": "models are not made here",
    "push": "models are not published from here",
    "blobs": "models are not made here",
}
"""Why what Ollama does below `/api` is not done here, as a clause."""


class Ollama(Dialect):
    """See `Dialect`."""

    roots = ("/api",)
    introduction = (
        "Below `/api` it speaks the protocol of Ollama; there bodies may come with any content "
        "type, and warnings are in the header `X-Budmlx-Warnings`."
    )
    error_reply = OllamaError
    key_schemes = {"key": {"type": "http", "scheme": "bearer"}}
    key_help = "Send a valid API key as 'Authorization: Bearer KEY'."

    @property
    def endpoints(self) -> Iterable[Endpoint]:
        """Chats, texts, vectors, what is told of models, and what is done with their files."""
        modules = (chat, generate, embed, listing, files)
        return chain.from_iterable(module.endpoints for module in modules)

    def keys(self, headers: CIMultiDictProxy[str]) -> Iterable[str]:
        """The bearer token, if there is exactly one Authorization header."""
        return bearer_keys(headers)

    def error(self, request: web.BaseRequest, failure: Failure) -> web.Response:
        """A JSON body with `error`, a sentence that names the parameter."""
        place = failure.param or ""
        named = failure.message if place in failure.message else f"{place}: {failure.message}"
        return as_json(OllamaError(named), failure.headers, status=failure.status)

    def not_found(self, path: str) -> Failure | None:
        """A failure that says why Ollama's path leads nowhere here."""
        match = re.fullmatch(r"/api/(\w+)(/.*)?", path)
        reason = ELSEWHERE.get(match[1]) if match else None
        if match is None or reason is None:
            return None
        return Failure(
            501, f"This server has no /api/{match[1]}: {reason}.", headers=dict(HOPELESS)
        )
