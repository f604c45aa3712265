"""What reading the metrics costs after many requests (make limits)."""

from __future__ import annotations

import time

import pytest

from budmlx import Engine
from budmlx.engine.models.models import Models
from budmlx.engine.run.origin import RequestOrigin
from budmlx.plugins.specs import RequestRecord
from budmlx.server.in_flight import InFlight
from budmlx.server.records import Exchange
from budmlx.server.telemetry.metrics import Metrics
from budmlx.types import Timing, Usage

REQUESTS = 10_000
MOST_SECONDS = 0.020


@pytest.mark.limits
def test_reading_after_ten_thousand_requests(engine: Engine) -> None:
    metrics = Metrics(Models.of(engine, ()), InFlight(1))
    for number in range(REQUESTS):
        record = RequestRecord(
            model=engine.info.name,
            outcome="completed",
            reasons=("stop",),
            usage=Usage(100 + number % 900, 20, cached_tokens=number % 100),
            timing=Timing(number % 7 / 100, number % 11 / 100, number % 13 / 100),
            route="/v1/chat/completions",
            key=f"key-{number % 8}",
            cache_reason="new",
        )
        origin = RequestOrigin(route=record.route, key=record.key)
        exchange = Exchange(origin, "POST", record.route, generates=True, records=[record])
        exchange.status = 200
        metrics.watch(exchange)
    took = []
    for _ in range(5):
        begin = time.process_time()
        text, _ = metrics.text()
        took.append(time.process_time() - begin)
    assert b"budmlx_request_seconds_count" in text
    assert min(took) <= MOST_SECONDS
