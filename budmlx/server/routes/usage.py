"""`GET /v1/usage`: the requests and tokens of API keys, by days of UTC."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from aiohttp import web
from msgspec import Struct

from budmlx.config.keys import ApiKey
from budmlx.errors import InvalidRequestError
from budmlx.server.admin import is_admin
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.ledger import DAYS_KEPT, DailyUse
from budmlx.server.state import API_KEY, KEYS, LEDGER

endpoints = EndpointTable("/v1")


class DayOfUse(Struct, frozen=True):
    """What a key used on a day, such as 2027-01-31. requests: those that ended, and used any."""

    key: str
    day: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, use: DailyUse) -> DayOfUse:
        """The same on the wire."""
        used = use.used
        return cls(use.key, use.day, used.requests, used.prompt, used.completion, used.tokens)


class KeyQuota(Struct, frozen=True):
    """The limit of a key, and what is left of it today beside what running requests hold."""

    key: str
    tokens_per_day: int | None
    remaining: int | None


class UsageReply(Struct, frozen=True):
    """Days of use, today's first. resets_at: when the day ends."""

    object: str
    data: Sequence[DayOfUse]
    quotas: Sequence[KeyQuota]
    resets_at: str


@endpoints.get(
    "/v1/usage",
    "What the API key used, or with admin rights every key",
    UsageReply,
    query={
        "days": {
            "type": "integer",
            "minimum": 1,
            "maximum": DAYS_KEPT,
            "description": "Today and the days before, so many together; else today alone.",
        }
    },
)
async def usage(request: web.Request) -> web.Response:
    """Say what keys used. Raises InvalidRequestError."""
    days = request.query.get("days", "1")
    if not re.fullmatch("[1-9][0-9]{0,2}", days) or int(days) > DAYS_KEPT:
        raise InvalidRequestError(f"`days` must be a number from 1 to {DAYS_KEPT}.", param="days")
    everyone = is_admin(request)
    keys: Sequence[ApiKey] = request.app[KEYS].all if everyone else [request[API_KEY]]
    names = None if everyone else {each.name for each in keys}
    ledger = request.app[LEDGER]
    found = await asyncio.to_thread(ledger.uses, names, int(days))
    left = await asyncio.to_thread(lambda: [ledger.left(each) for each in keys])
    reply = UsageReply(
        "list",
        [DayOfUse.of(each) for each in found],
        [
            KeyQuota(each.name, each.tokens_per_day, rest)
            for each, rest in zip(keys, left, strict=True)
        ],
        ledger.reset_time.isoformat().replace("+00:00", "Z"),
    )
    return as_json(reply)
