"""Image fetching: by URL, from the hosts that the configuration allows.

A request must not reach through the server into networks that its client cannot see. So a URL
has one spelling of its host, all addresses of the host are checked, the connection goes to
these addresses without resolving again, and redirects are followed here, each checked anew.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from budmlx.engine.images import addresses
from budmlx.engine.images.formats import MAX_BYTES
from budmlx.errors import InvalidRequestError
from budmlx.threads import run_apart

MAX_REDIRECTS = 3
SECONDS = 10.0
"""How long a fetch may take, redirects and body included."""

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""From a host name to its IP addresses; raises OSError where there are none."""

_MAX_URL = 8192
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "User-Agent": "budmlx",
}
# The host is ASCII letters and digits or an IPv6 address; what follows has neither spaces nor
# backslashes, which parsers of URLs read differently.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?:[/?#][^\s\\\x00-\x20\x7f\ud800-\udfff]*)?",
    re.IGNORECASE | re.ASCII,
)


async def system_addresses(host: str) -> Sequence[str]:
    """The addresses that the system's resolver knows. Raises OSError or UnicodeError.

    On a thread of its own: a resolver that hangs would keep the loop's executor from ending.
    """
    call = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    found = await asyncio.wrap_future(run_apart("budmlx-resolve", call))
    return [str(info[4][0]) for info in found]


class Fetcher:
    """Fetches pictures; one object serves all requests and keeps nothing open between them.

    allow: hosts, as `addresses.host_rules` reads them; with none of them fetching is off.
    resolve, is_public: how hosts become addresses and which of these are public. seconds: how
    long a fetch may take.

    Raises:
        ConfigError: an entry of `allow` is not a host.
    """

    def __init__(
        self,
        allow: Sequence[str],
        *,
        resolve: Resolve = system_addresses,
        is_public: Callable[[str], bool] = addresses.is_public,
        seconds: float = SECONDS,
    ):
        self._rules = addresses.host_rules(allow)
        self._resolve = resolve
        self._is_public = is_public
        self._seconds = seconds

    async def fetch(self, url: str, param: str) -> bytes:
        """The body of a picture's URL, at most `MAX_BYTES`.

        Raises:
            InvalidRequestError: whatever the reason. Where fetching is on the message is always
            the same, so that it tells nothing about what was reached.
        """
        if not self._rules:
            raise InvalidRequestError(
                "This server does not fetch images. Send the image as a data: URL, or name its "
                "host in the server's setting `image_host`.",
                param=param,
            )
        try:
            async with asyncio.timeout(self._seconds):
                return await self._follow(url)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise InvalidRequestError(
                "The image could not be fetched. It needs an http or https URL of a public host "
                "that the server's setting `image_host` names, and must arrive as an image of "
                f"at most {MAX_BYTES >> 20} MiB within {SECONDS:.0f} s. Or send it as a data: URL.",
                param=param,
            ) from error

    async def _follow(self, text: str) -> bytes:
        for hop in range(MAX_REDIRECTS + 1):
            url = _parsed(text)
            result = await self._get(url, redirected=hop > 0)
            if isinstance(result, bytes):
                return result
            text = urljoin(str(url), result)
        raise ValueError("too many redirects")

    async def _get(self, url: URL, *, redirected: bool) -> bytes | str:
        """The body, or where a redirect leads."""
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(await self._addresses(url, redirected)),
            use_dns_cache=False,
            force_close=True,
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                timeout=aiohttp.ClientTimeout(total=self._seconds),
                auto_decompress=False,
                trust_env=False,
            ) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status in _REDIRECTS and "Location" in response.headers:
                return response.headers["Location"]
            return await _body(response)

    async def _addresses(self, url: URL, redirected: bool) -> Sequence[str]:
        """The addresses for a URL; raises ValueError if its host or an address is refused."""
        host, port = str(url.host), url.port or 0
        rules = [rule for rule in self._rules if rule.covers(host, port)]
        if not rules:
            raise ValueError("not an allowed host")
        is_literal = ":" in host or host.replace(".", "").isdigit()
        found = [host] if is_literal else await self._resolve(host)
        private = not redirected and any(rule.private for rule in rules)
        if not found or not (private or all(map(self._is_public, found))):
            raise ValueError("not a public host")
        return found


class _Pinned(AbstractResolver):
    """Gives the connector the addresses that were checked. It is not called for IP
    addresses in URLs, which were checked as they are."""

    def __init__(self, found: Sequence[str]):
        self._found = found

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses, for whatever host."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._found
        ]

    async def close(self) -> None:
        """There is nothing to close."""


def _parsed(text: str) -> URL:
    """A URL whose host is in its normal form; raises ValueError for any other text."""
    match = _URL.fullmatch(text)
    if match is None or len(text) > _MAX_URL:
        raise ValueError("not an http URL")
    host = addresses.normal_host(match["host"])
    port = int(match["port"] or (443 if match["scheme"].lower() == "https" else 80))
    url = URL(text).with_host(host)
    if (url.host, url.port, url.user, url.password) != (host, port, None, None):
        raise ValueError("an ambiguous URL")
    return url


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The body of an image; raises ValueError for anything else."""
    kind = response.content_type
    if response.status != 200 or not (
        kind.startswith("image/") or kind == "application/octet-stream"
    ):
        raise ValueError("not an image")
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise ValueError("an encoding that was not asked for")
    if (response.content_length or 0) > MAX_BYTES:
        raise ValueError("too large")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BYTES:
            raise ValueError("too large")
    return bytes(body)
