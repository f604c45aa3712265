"""Access to the server: addresses, Host and Origin headers, API keys."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
import uuid

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from budmlx.config import ServerConfig
from budmlx.errors import ConfigError
from budmlx.server.errors import HttpError
from budmlx.server.origins import check_origin, is_preflight, preflight_answer
from budmlx.server.state import DIALECTS, NAMESPACE, REQUEST_ID

OPEN_ROUTES = frozenset({"/health", "/ready", "/docs", "/openapi.json"})
"""Routes that answer without a key. The documents hold nothing that is not public."""

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
WILDCARDS = frozenset({"", "0.0.0.0", "[::]"})
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_bind(config: ServerConfig) -> None:
    """Refuse, with ConfigError, an address that others can reach while no key is set."""
    if config.accepted_keys() or _is_loopback(config.host):
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


def request_id(request: web.BaseRequest) -> str:
    """The id of a request: the client's if it is short and harmless, else a new one."""
    if REQUEST_ID not in request:
        given = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
    return request[REQUEST_ID]


def guard(config: ServerConfig) -> Middleware:
    """The middleware that lets a request pass only with a known Host, Origin and key."""
    named = {bracketed(host.lower()) for host in (config.host, *config.allow_host)}
    hosts = LOCAL_HOSTS | (named - WILDCARDS)
    origins = frozenset(config.allow_origin)
    digests = [_digest(key) for key in config.accepted_keys()]

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = _check_host(request, hosts)
        check_origin(request, host, origins)
        if is_preflight(request):
            return preflight_answer(request)
        if digests and not _is_open(request):
            _check_key(request, digests)
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


def _is_open(request: web.Request) -> bool:
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical in OPEN_ROUTES


def _check_key(request: web.Request, digests: list[bytes]) -> None:
    dialects = request.app[DIALECTS]
    given = [_digest(key) for key in dialects.keys(request.path, request.headers)]
    # Every pair is compared, so that the time does not reveal which one came close.
    matches = [
        (hmac.compare_digest(one, known), one) for one in given for known in digests
    ]  # fmt: skip
    accepted = [one for same, one in matches if same]
    if not accepted:
        raise HttpError(
            401,
            dialects.of(request.path).key_help,
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    request[NAMESPACE] = accepted[0].hex()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
