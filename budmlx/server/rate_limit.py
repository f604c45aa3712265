"""Rate limits: the requests that an API key may make per minute, and at once."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler

from budmlx.server.endpoints import Endpoint
from budmlx.server.errors import RETRY_SECONDS, HttpError
from budmlx.server.state import API_KEY, NAMESPACE

WINDOW_SECONDS = 60.0


@dataclass
class _KeyUsage:
    """The requests of one key. times: of those of the last minute."""

    times: deque[float] = field(default_factory=deque)
    running: int = 0


class RateLimiter:
    """Counts the requests of each key against the limits. None: no limit.

    per_minute: of keys without a limit of their own. brief: paths, in every spelling, whose
    requests count for the minute only.
    """

    def __init__(self, per_minute: int | None, concurrent: int | None, brief: Collection[str] = ()):
        self._brief = brief
        self.per_minute = per_minute
        self.concurrent = concurrent
        self._usage: defaultdict[str, _KeyUsage] = defaultdict(_KeyUsage)

    @contextmanager
    def counted(
        self, key: str, now: float, *, brief: bool = False, own: int | None = None
    ) -> Iterator[None]:
        """Count a request of a key while it runs; refused ones do not count.

        now: in seconds, of any clock that only goes forward. brief: only the minute counts.
        own: the key's own limit of requests per minute.

        Raises:
            HttpError: 429, with `Retry-After` in whole seconds.
        """
        use = self._usage[key]
        per_minute = own or self.per_minute
        while use.times and use.times[0] <= now - WINDOW_SECONDS:
            use.times.popleft()
        if per_minute is not None and len(use.times) >= per_minute:
            wait = math.ceil(use.times[0] - (now - WINDOW_SECONDS))
            raise _refusal(f"{per_minute} requests per minute", max(wait, RETRY_SECONDS))
        if not brief and self.concurrent is not None and use.running >= self.concurrent:
            raise _refusal(f"{self.concurrent} requests at once", RETRY_SECONDS)
        if per_minute is not None:
            use.times.append(now)
        use.running += not brief
        try:
            yield
        finally:
            use.running -= not brief

    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The answer of a handler; requests with POST count while it is made.

        Without API keys all clients count as one.
        """
        if request.method != "POST":
            return await handler(request)
        now = asyncio.get_running_loop().time()
        resource = request.match_info.route.resource
        brief = resource is not None and resource.canonical in self._brief
        own = request[API_KEY].rpm if API_KEY in request else None
        with self.counted(request.get(NAMESPACE, ""), now, brief=brief, own=own):
            return await handler(request)


def _refusal(limit: str, wait: int) -> HttpError:
    return HttpError(
        429,
        f"This API key may make {limit}; retry in {wait} s.",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(wait)},
    )


def brief_paths(endpoints: Iterable[Endpoint]) -> frozenset[str]:
    """The paths of those that wait for no other request."""
    return frozenset(path for each in endpoints if each.brief for path in each.spellings)


LIMITER: web.AppKey[RateLimiter] = web.AppKey("limiter")
