"""Rate limits: the requests that an API key may make per minute, and at once."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from budmlx.config import ServerConfig
from budmlx.server.endpoints import Endpoint
from budmlx.server.errors import RETRY_SECONDS, HttpError
from budmlx.server.state import NAMESPACE

WINDOW_SECONDS = 60.0


@dataclass
class _KeyUsage:
    """The requests of one key. times: of those of the last minute."""

    times: deque[float] = field(default_factory=deque)
    running: int = 0


class RateLimiter:
    """Counts the requests of each key against the limits. None: no limit."""

    def __init__(self, per_minute: int | None, concurrent: int | None):
        self._per_minute = per_minute
        self._concurrent = concurrent
        self._usage: defaultdict[str, _KeyUsage] = defaultdict(_KeyUsage)

    @contextmanager
    def counted(self, key: str, now: float, *, brief: bool = False) -> Iterator[None]:
        """Count a request of a key while it runs; refused ones do not count.

        now: in seconds, of any clock that only goes forward. brief: only the minute counts.

        Raises:
            HttpError: 429, with `Retry-After` in whole seconds.
        """
        use = self._usage[key]
        while use.times and use.times[0] <= now - WINDOW_SECONDS:
            use.times.popleft()
        if self._per_minute is not None and len(use.times) >= self._per_minute:
            wait = math.ceil(use.times[0] - (now - WINDOW_SECONDS))
            raise _refusal(f"{self._per_minute} requests per minute", max(wait, RETRY_SECONDS))
        if not brief and self._concurrent is not None and use.running >= self._concurrent:
            raise _refusal(f"{self._concurrent} requests at once", RETRY_SECONDS)
        if self._per_minute is not None:
            use.times.append(now)
        use.running += not brief
        try:
            yield
        finally:
            use.running -= not brief


def _refusal(limit: str, wait: int) -> HttpError:
    return HttpError(
        429,
        f"This API key may make {limit}; retry in {wait} s.",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(wait)},
    )


def rate_limits(config: ServerConfig, endpoints: Iterable[Endpoint]) -> list[Middleware]:
    """The middleware that counts POST requests; none where there is no limit.

    Without API keys all clients count as one. endpoints: all of them, since some are brief.
    """
    if config.requests_per_minute is None and config.concurrent_requests is None:
        return []
    limiter = RateLimiter(config.requests_per_minute, config.concurrent_requests)
    brief = {path for endpoint in endpoints if endpoint.brief for path in endpoint.spellings}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "POST":
            return await handler(request)
        now = asyncio.get_running_loop().time()
        resource = request.match_info.route.resource
        is_brief = resource is not None and resource.canonical in brief
        with limiter.counted(request.get(NAMESPACE, ""), now, brief=is_brief):
            return await handler(request)

    return [check]
