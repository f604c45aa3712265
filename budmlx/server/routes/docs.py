"""`GET /openapi.json` and `GET /docs`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from aiohttp import web

from budmlx.server.endpoints import EndpointTable
from budmlx.server.openapi import document
from budmlx.server.state import DIALECTS, ENDPOINTS, KEYS

endpoints = EndpointTable()

PAGE = Path(__file__).parents[2] / "assets" / "docs.html"
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@endpoints.get("/openapi.json", "This document", content_types=("application/json",))
async def openapi(request: web.Request) -> web.Response:
    """What the server's own endpoints take and answer."""
    app = request.app
    body = document(app[DIALECTS], app[ENDPOINTS], needs_key=app[KEYS].required)
    return web.Response(body=body, content_type="application/json")


@endpoints.get("/docs", "A page that shows it", content_types=("text/html",))
async def docs(request: web.Request) -> web.Response:
    """A page that shows it, which loads nothing else."""
    headers = {"Content-Security-Policy": POLICY}
    return web.Response(body=_page(), content_type="text/html", charset="utf-8", headers=headers)


@cache
def _page() -> bytes:
    return PAGE.read_bytes()
