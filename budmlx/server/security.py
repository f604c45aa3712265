"""Access to the server: addresses, Host and Origin headers, API keys and their models."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import uuid
from collections.abc import Collection
from contextlib import suppress

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from budmlx.config import ServerConfig
from budmlx.config.keys import ApiKey
from budmlx.engine.models.models import ServedModel
from budmlx.errors import ConfigError, InvalidRequestError, ModelNotFoundError
from budmlx.server.errors import HttpError
from budmlx.server.keys import KeyRing
from budmlx.server.line_request import AnyRequest, LineRequest
from budmlx.server.rate_limit import RateLimiter
from budmlx.server.records import ORIGIN
from budmlx.server.state import (
    API_KEY,
    DIALECTS,
    KEY_PRIORITY,
    KEYS,
    LEDGER,
    MODELS,
    NAMESPACE,
    PAGE_ORIGIN,
    REQUEST_ID,
)
from budmlx.server.warnings_header import NAME as WARNINGS
from budmlx.types import Priority

OPEN_ROUTES = frozenset({"/", "/page/{file}", "/health", "/ready", "/docs", "/openapi.json"})
"""Routes that answer without a key. The page and the documents hold nothing that is not public."""

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
WILDCARDS = frozenset({"", "0.0.0.0", "[::]"})
SHOWN_NAMES = 20
"""So many names of models an error lists."""
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")

PREFLIGHT_SECONDS = 600
"""How long a browser need not ask again."""

EXPOSED = f"X-Request-Id, Request-Id, Retry-After, X-Should-Retry, {WARNINGS}"
"""Headers of replies that pages may read besides those that every page may."""

EXPIRED = "The time of this API key is over; ask whoever runs the server for another one."

NO_KEYS_BEHIND_PROXY = (
    "This request came through a proxy from another machine, for which the server needs API keys: "
    "start it with BUDMLX_API_KEYS or --api-key-file."
)

METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
_PRIVATE = "Access-Control-Request-Private-Network"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_bind(config: ServerConfig) -> None:
    """Refuse, with ConfigError, an address that others can reach while no key is set."""
    if config.needs_key or _is_loopback(config.host):
        return
    raise ConfigError(
        f"Binding {config.host or 'all addresses'} lets other machines in, so it needs an API "
        "key: set BUDMLX_API_KEYS or --api-key-file, or bind 127.0.0.1."
    )


def _is_loopback(host: str) -> bool:
    if not host:
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise ConfigError(f"Cannot find the address {host!r} to bind.") from exc
    return all(ipaddress.ip_address(str(item[4][0]).split("%")[0]).is_loopback for item in found)


def request_id(request: web.BaseRequest | LineRequest) -> str:
    """The id of a request: the client's if it is short and harmless, else a new one."""
    if isinstance(request, LineRequest):
        return request[ORIGIN].request_id
    if REQUEST_ID not in request:
        given = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
    return request[REQUEST_ID]


def guard(config: ServerConfig, keys: KeyRing, limiter: RateLimiter | None = None) -> Middleware:
    """The middleware that lets a request pass only with a known Host, Origin and key.

    limiter: then counts it.
    """
    named = {bracketed(host.lower()) for host in (config.host, *config.allow_host)}
    hosts = LOCAL_HOSTS | (named - WILDCARDS)
    origins = frozenset(config.allow_origin)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = _check_host(request, hosts)
        _check_origin(request, host, origins)
        if _is_preflight(request):
            return _preflight_answer(request)
        own = None
        if not _is_open(request):
            if keys.required:
                own = _check_key(request, keys).rpm
            elif _is_from_afar(request):
                raise HttpError(403, NO_KEYS_BEHIND_PROXY, code="key_required")
        if limiter is not None and (limiter.per_minute or limiter.concurrent or own):
            return await limiter.handle(request, handler)
        return await handler(request)

    return check


def _check_host(request: web.Request, hosts: frozenset[str]) -> str:
    """Return the Host header, which a page that rebinds DNS to us cannot choose."""
    given = request.headers.get("Host", "").lower()
    if not given:
        raise HttpError(400, "The request has no Host header.", code="host_missing")
    match = _HOST.fullmatch(given)
    known = match is not None and (match["name"] in hosts or match["name"] == _own_address(request))
    if not known:
        raise HttpError(
            403,
            "This Host is not served here; start the server with --allow-host to add one.",
            code="host_not_allowed",
        )
    return given


def _own_address(request: web.Request) -> str | None:
    """The address on which the connection arrived, as it would stand in a Host header."""
    name = request.get_extra_info("sockname")
    return bracketed(str(name[0]).removeprefix("::ffff:")) if name else None


def bracketed(host: str) -> str:
    """An address as URLs and Host headers write it."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _check_origin(request: web.Request, host: str, allowed: frozenset[str]) -> None:
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
        request[PAGE_ORIGIN] = origin


def _is_preflight(request: web.Request) -> bool:
    """Whether a browser asks on behalf of a page that was let in whether it may send a request."""
    asked = request.method == hdrs.METH_OPTIONS and PAGE_ORIGIN in request
    return asked and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers


def _preflight_answer(request: web.Request) -> web.Response:
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
    if PAGE_ORIGIN not in request:
        return
    response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request[PAGE_ORIGIN]
    response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED
    response.headers.add(hdrs.VARY, "Origin")


def _is_open(request: web.Request) -> bool:
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical in OPEN_ROUTES


def _is_from_afar(request: web.Request) -> bool:
    """Whether a proxy says that it hands on what another machine sent."""
    said = [
        address.strip()
        for name in ("X-Forwarded-For", "X-Real-IP")
        for value in request.headers.getall(name, ())
        for address in value.split(",")
    ]
    return any(address and not _is_loopback_address(address) for address in said)


def _is_loopback_address(text: str) -> bool:
    with suppress(ValueError):
        address = ipaddress.ip_address(text.strip("[]"))
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback
    return False


def _check_key(request: web.Request, keys: KeyRing) -> ApiKey:
    key = keys.find(request.app[DIALECTS].keys(request.path, request.headers))
    if key is not None:
        request[ORIGIN].key = key.name
    if key is None or key.expired():
        raise HttpError(
            401,
            request.app[DIALECTS].of(request.path).key_help if key is None else EXPIRED,
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    request[NAMESPACE] = key.sha256
    request[API_KEY] = key
    if key.background:
        request[KEY_PRIORITY] = "background"
    if (ledger := request.app.get(LEDGER)) is not None:
        request[ORIGIN].account = ledger.account(key)
    return key


def priority_of(request: AnyRequest, asked: str | None, *, low: bool) -> Priority:
    """The class of a request, which may lower that of its key and never raise it. Its origin
    tells it to those who watch.

    asked: its `priority`. low: it asks for the background, in whatever words.

    Raises:
        InvalidRequestError: it asks for more than its key has.
    """
    most: Priority = request.get(KEY_PRIORITY, "interactive")
    if asked == "interactive" != most:
        raise InvalidRequestError(
            "What this API key asks for runs in the background. Leave `priority` out.",
            param="priority",
        )
    priority: Priority = "background" if low else most
    if (origin := request.get(ORIGIN)) is not None:
        origin.background = priority == "background"
    return priority


async def find_model(request: AnyRequest, name: str, *, default: bool = True) -> ServedModel:
    """The model that answers to `name`, if the API key may use it.

    default: the model for unknown names may answer.

    Raises:
        ModelNotFoundError: there is none, or it is another key's.
    """
    key = request.get(API_KEY)
    if key is None or not key.models:
        return await request.app[MODELS].afind(name, default=default)
    with suppress(ModelNotFoundError):
        found = await request.app[MODELS].afind(name, default=default)
        if _permits(await _permitted(request), found):
            return found
    own = ", ".join(key.models[:SHOWN_NAMES])
    more = len(key.models) - SHOWN_NAMES
    raise ModelNotFoundError(
        f"No model named {name[:100]!r} is served to this API key. It may use: {own}"
        f"{f' and {more} more' if more > 0 else ''}.",
        param="model",
    )


async def listed(request: web.Request) -> list[tuple[str, ServedModel]]:
    """Every name that is listed for the API key, as the library is now, and what answers."""
    models = request.app[MODELS]
    await asyncio.to_thread(models.refresh)
    key, found = request.get(API_KEY), []
    permitted = await _permitted(request) if key is not None and key.models else None
    for name in models.names:
        with suppress(ModelNotFoundError):  # another request found that it is gone
            served = await models.afind(name, default=False)
            if permitted is None or _permits(permitted, served):
                found.append((name, served))
    return found


async def visible(request: web.Request) -> Collection[str] | None:
    """The models that whoever asks an open route may hear of; None for all."""
    keys = request.app[KEYS]
    if not keys.required:
        return None
    key = keys.find(request.app[DIALECTS].keys(request.path, request.headers))
    if key is None or key.expired():
        return ()
    request[API_KEY] = key
    return {name for name, _ in await _permitted(request)} if key.models else None


async def _permitted(request: AnyRequest) -> set[tuple[str, str]]:
    """What the key may use: names of models, each with that of an adapter, or without for all."""
    found = set()
    for name in request[API_KEY].models:
        with suppress(ModelNotFoundError):
            served = await request.app[MODELS].afind(name, default=False)
            found.add((served.name, served.adapter))
    return found


def _permits(permitted: set[tuple[str, str]], served: ServedModel) -> bool:
    return not permitted.isdisjoint([(served.name, ""), (served.name, served.adapter)])
