"""Exposition: what `GET /metrics` needs; `metrics` has it, where prometheus-client is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from budmlx.server.records import Exchange


class Exposition(Protocol):
    """Counts exchanges, and writes all metrics. connections: the number of clients."""

    connections: Callable[[], int]

    def watch(self, exchange: Exchange) -> None:
        """Count an exchange that is over."""

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics, and the content type that fits an Accept header best."""


METRICS: web.AppKey[Exposition] = web.AppKey("metrics")
