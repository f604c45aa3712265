"""Origins: which web pages may use this server, and what browsers need to hear of it."""

from __future__ import annotations

from aiohttp import hdrs, web

from budmlx.server.errors import HttpError
from budmlx.server.state import ORIGIN

PREFLIGHT_SECONDS = 600
"""How long a browser need not ask again."""

EXPOSED = "X-Request-Id, Retry-After, X-Should-Retry"
"""Headers of replies that pages may read besides those that every page may."""

METHODS = "GET, POST, OPTIONS"
_PRIVATE = "Access-Control-Request-Private-Network"


def check_origin(request: web.Request, host: str, allowed: frozenset[str]) -> None:
    """Refuse pages of another origin than this server's own and the allowed ones.

    host: the Host header. allowed: origins, or `scheme://*` for all of a scheme. The origin of a
    page that is let in is kept for `allow_reading`.

    Raises:
        HttpError: 403.
    """
    origins = request.headers.getall("Origin", [])
    for origin in origins:
        given = origin.lower()
        if given in (f"http://{host}", f"https://{host}"):
            continue
        scheme, separator, _ = given.partition("://")
        if given not in allowed and not (separator and f"{scheme}://*" in allowed):
            raise HttpError(
                403,
                "Requests from web pages of another origin are refused; start the server with "
                "--allow-origin to let one in.",
                code="origin_not_allowed",
                headers={"Vary": "Origin"},
            )
        request[ORIGIN] = origin


def is_preflight(request: web.Request) -> bool:
    """Whether a browser asks on behalf of a page that was let in whether it may send a request."""
    asked = request.method == hdrs.METH_OPTIONS and ORIGIN in request
    return asked and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers


def preflight_answer(request: web.Request) -> web.Response:
    """The answer to a preflight. It needs no key, since browsers send none with it."""
    headers: dict[str, str] = {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
        hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_SECONDS),
    }
    if wanted := request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS):
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = wanted
    if request.headers.get(_PRIVATE) == "true":
        headers["Access-Control-Allow-Private-Network"] = "true"
    return web.Response(status=204, headers=headers)


def allow_reading(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Let a page that was let in read this response, whatever its status."""
    if ORIGIN not in request:
        return
    response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request[ORIGIN]
    response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED
    response.headers[hdrs.VARY] = "Origin"
