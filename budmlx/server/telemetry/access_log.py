"""Access log: one line for each request, with what the engine did for it.

Without query strings, headers, bodies, prompts and replies.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from budmlx.logs import fields
from budmlx.plugins.specs import RequestRecord
from budmlx.server.records import Exchange
from budmlx.server.security import OPEN_ROUTES
from budmlx.types import Usage

log = logging.getLogger("budmlx.access")

FIRST = ("request_id", "method", "path", "status", "seconds", "error", "reason")
"""What stands in a line of text without its name, or at the end."""
LOOKS = frozenset({"/page/{file}", "/v1/watch", "/v1/log"})
"""Routes that the page asks many times; they are logged as debugging."""
MOST_OF_A_PATH = 200
MOST_OF_A_REASON = 300


class Allowance:
    """So many lines within so many seconds, and then how many there would have been."""

    def __init__(self, lines: int, seconds: float):
        self._lines, self._seconds = lines, seconds
        self._begun = -math.inf
        self._asked = 0

    def take(self) -> bool:
        """Whether one more line may be written; tells of the others when a new time begins."""
        now = time.monotonic()
        if now >= self._begun + self._seconds:
            if (left_out := self._asked - self._lines) > 0:
                log.warning("%d further requests of clients without a key had no line", left_out)
            self._begun, self._asked = now, 0
        self._asked += 1
        return self._asked <= self._lines


STRANGERS = Allowance(lines=120, seconds=60.0)
"""For requests of those who showed no key: anybody can send as many as they like."""


def _is_strange(exchange: Exchange) -> bool:
    origin = exchange.origin
    refused = exchange.status in (401, 403) or not exchange.method
    return not origin.key and (refused or origin.route in OPEN_ROUTES)


def write(exchange: Exchange) -> None:
    """Write the line of a request that is over."""
    if _is_strange(exchange) and not STRANGERS.take():
        return
    found = facts(exchange)
    words = [f"{name}={_text(name, found[name])}" for name in found if name not in FIRST]
    path = ascii(exchange.path[:MOST_OF_A_PATH])[1:-1]
    status = str(exchange.status) if exchange.status else "client left"
    line = [exchange.method, path, status, f"{found['seconds']:.3f}s", found["request_id"], *words]
    if "error" in found:
        line.append(f"error={found['error']}: {found['reason']}")
    looks = exchange.origin.route in LOOKS and exchange.failure is None
    level = logging.DEBUG if looks else logging.INFO
    log.log(level, "%s", " ".join(each for each in line if each), extra=fields(**found))


def _text(name: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}/s" if name == "rate" else f"{value:.3f}s"
    return str(value)


def facts(exchange: Exchange) -> Mapping[str, Any]:
    """What there is to say; times in seconds, counts in tokens."""
    origin = exchange.origin
    found: dict[str, Any] = {
        "request_id": origin.request_id,
        "method": exchange.method,
        "path": exchange.path[:MOST_OF_A_PATH],
        "status": exchange.status,
        "seconds": exchange.ended - origin.started,
    }
    if origin.key:
        found["key"] = origin.key
    if exchange.batch:
        found["batch"] = exchange.batch
    if exchange.late:
        found["late"] = True
    if exchange.records:
        found |= _of_records(exchange.records)
    if (failure := exchange.failure) is not None:
        found["error"] = failure.code or str(failure.status)
        found["reason"] = failure.message[:MOST_OF_A_REASON]
        if failure.param:
            found["param"] = failure.param
    return found


def _of_records(records: list[RequestRecord]) -> dict[str, Any]:
    """Of a completion of several prompts the sums, and the times of the first one."""
    found: dict[str, Any] = {}
    first = records[0]
    if first.model:
        found["model"] = first.model
    usages = [each.usage for each in records if each.usage is not None]
    if usages:
        found["in"] = sum(usage.prompt_tokens for usage in usages)
        found["cached"] = sum(usage.cached_tokens for usage in usages)
        found["out"] = out = sum(usage.completion_tokens for usage in usages)
        if drafted := sum(usage.drafted_tokens for usage in usages):
            found["drafted"] = drafted
            found["accepted"] = sum(usage.accepted_tokens for usage in usages)
            found["drafts"] = _drafts(usages)
        timing = first.timing
        if timing is not None and not first.cached:
            found["queue"] = timing.queue
            if out:
                before = first.waited + first.prepared
                found["ttft"] = before + timing.queue + timing.prompt
            if timing.completion > 0 and out > len(first.reasons):
                found["rate"] = out / timing.completion
    if any(each.cached for each in records):
        found["replayed"] = True
    reasons = list(dict.fromkeys(reason for each in records for reason in each.reasons))
    found["finish"] = ",".join(reasons) if reasons else first.outcome
    return found


def _drafts(usages: list[Usage]) -> str:
    """What the drafted tokens were of, each with its accepted and drafted ones."""
    drafted, accepted = Counter[str](), Counter[str]()
    for source, _, tokens, drawn in (each for usage in usages for each in usage.drafts):
        drafted[source] += tokens
        accepted[source] += drawn
    return ",".join(f"{each}:{accepted[each]}/{drafted[each]}" for each in sorted(drafted))
