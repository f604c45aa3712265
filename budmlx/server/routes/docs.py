"""`GET /openapi.json` and `GET /docs`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from aiohttp import web

from budmlx.server.openapi import document
from budmlx.server.state import CONFIG

routes = web.RouteTableDef()

PAGE = Path(__file__).parents[2] / "assets" / "docs.html"
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@routes.get("/openapi.json")
async def openapi(request: web.Request) -> web.Response:
    """What the server's own endpoints take and answer."""
    body = document(needs_key=bool(request.app[CONFIG].accepted_keys()))
    return web.Response(body=body, content_type="application/json")


@routes.get("/docs")
async def docs(request: web.Request) -> web.Response:
    """A page that shows it, which loads nothing else."""
    headers = {"Content-Security-Policy": POLICY}
    return web.Response(body=_page(), content_type="text/html", charset="utf-8", headers=headers)


@cache
def _page() -> bytes:
    return PAGE.read_bytes()
