"""The fixed limits of what plugins may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PluginLimits:
    """Limits of the plugins of one engine. Times are in seconds.

    call_seconds: a call that takes longer fails its request.
    hanging_calls: of one plugin that take longer, each of which keeps a thread; then its calls are
    refused.
    cache_seconds: a response cache that takes longer to answer is left alone for a while.
    waiting_records: that wait for one observer; more are dropped.
    close_seconds: that observers have for the last records when an engine is closed.
    """

    call_seconds: float = 10.0
    hanging_calls: int = 4
    cache_seconds: float = 2.0
    waiting_records: int = 256
    close_seconds: float = 2.0


DEFAULTS = PluginLimits()
