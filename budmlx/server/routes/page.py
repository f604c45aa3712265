"""`GET /`: the page to chat and to watch, and the files that it is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import hdrs, web

from budmlx.server.endpoints import EndpointTable

endpoints = EndpointTable()

FOLDER = Path(__file__).parents[2] / "assets" / "page"
INDEX = "index.html"
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
PROBED = "Ollama is running"
"""What launchers of Ollama's clients expect of this address."""

HEADERS = {
    # Nothing but the files beside it; what a model or a user wrote never becomes HTML.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Kept by browsers, but asked for each time, so that a new version is seen at once.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    content_type: str
    etag: str


@endpoints.get(
    "/", "A page to chat and to watch, for browsers", content_types=("text/html", "text/plain")
)
async def page(request: web.Request) -> web.Response:
    """Answer browsers with the page; others test the connection, and get a line of text."""
    if "text/html" in request.headers.get(hdrs.ACCEPT, "").lower():
        response = _answer(request, _files()[INDEX])
    else:
        response = web.Response(text=PROBED)
    response.headers[hdrs.VARY] = hdrs.ACCEPT
    return response


@endpoints.get(
    "/page/{file}",
    "What the page is made of",
    content_types=("text/javascript", "text/css", "image/svg+xml"),
    errors=(404,),
    parameters={"file": "The name of a script, a style sheet or a picture."},
)
async def asset(request: web.Request) -> web.Response:
    """Answer with a file of the page. Raises HTTPNotFound."""
    file = _files().get(request.match_info["file"])
    if file is None:
        raise web.HTTPNotFound
    return _answer(request, file)


def _answer(request: web.Request, file: _File) -> web.Response:
    headers = {**HEADERS, hdrs.ETAG: f'"{file.etag}"'}
    if any(each.value in (file.etag, "*") for each in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    text = file.content_type.startswith("text/")
    charset = "utf-8" if text else None
    return web.Response(
        body=file.body, content_type=file.content_type, charset=charset, headers=headers
    )


@cache
def _files() -> Mapping[str, _File]:
    return {path.name: _read(path) for path in FOLDER.iterdir() if path.suffix in TYPES}


def _read(path: Path) -> _File:
    body = path.read_bytes()
    return _File(body, TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:16])
