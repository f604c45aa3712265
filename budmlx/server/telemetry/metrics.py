"""Metrics: counters of what the server did, and the text in which Prometheus reads them; the
requests that ended last.

Requests are counted when they end; what models and the server say of themselves is asked for when
somebody reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from budmlx.engine.models.models import Models
from budmlx.plugins.specs import RequestRecord
from budmlx.server.in_flight import InFlight
from budmlx.server.records import BatchCounts, Exchange
from budmlx.server.telemetry import declarations as declared
from budmlx.server.telemetry.collector import ModelCollector
from budmlx.server.telemetry.declarations import Metric

CLIENT_LEFT = 499
"""The status that stands for none, as that of nginx does."""
MOST_ERRORS = 64
"""Codes of errors that are counted by themselves; plugins may invent any number."""
OTHERS = "other"
MOST_ENDED = 100
"""Requests that are kept for those who watch."""


class Metrics:
    """The metrics of one server. It counts on the event loop, or on any thread.

    connections: the number of clients, once it is known. batches: what became of them.
    """

    def __init__(self, models: Models, in_flight: InFlight):
        self.connections: Callable[[], int] = int
        self.batches: Callable[[], BatchCounts] = BatchCounts
        collector = ModelCollector(
            models, in_flight, lambda: self.connections(), lambda: self.batches()
        )
        self._registry = CollectorRegistry(auto_describe=False)
        self._errors: set[str] = set()
        # To find a series takes the library longer than to count.
        self._children: dict[tuple[Metric, tuple[str, ...]], Any] = {}
        self._registry.register(cast(Collector, collector))
        ProcessCollector(registry=self._registry)
        self._made = {each: self._make(each) for each in declared.COUNTED}

    def _make(self, metric: Metric) -> Counter | Histogram:
        if metric.kind == "counter":
            return Counter(metric.name, metric.text, metric.labels, registry=self._registry)
        return Histogram(
            metric.name,
            metric.text,
            metric.labels,
            buckets=metric.buckets,
            registry=self._registry,
        )

    def watch(self, exchange: Exchange) -> None:
        """Count an exchange that is over."""
        if not exchange.late and not exchange.batch:
            route = exchange.origin.route
            method = exchange.method if route else ""
            self._add(declared.HTTP_REQUESTS, method, route, str(exchange.status or CLIENT_LEFT))
        for record in exchange.records:
            self._count(record)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics, and the content type that fits an Accept header best."""
        encode, content_type = choose_encoder(accept)
        return encode(cast(Collector, _WithoutTimes(self._registry))), content_type

    def _count(self, record: RequestRecord) -> None:
        model, key = record.model, record.key
        self._add(declared.REQUESTS, model, record.route, key, record.outcome)
        if record.error is not None:
            self._add(declared.ERRORS, model, record.route, self._error(record.error))
        for reason in record.reasons:
            self._add(declared.CHOICES, model, reason)
        if record.looked_up and record.outcome == "completed":
            self._add(declared.RESPONSE_CACHE, model, "hit" if record.cached else "miss")
        if record.cache_reason is not None:
            self._add(declared.PREFIX_CACHE, model, record.cache_reason)
        self._count_tokens(record)
        if record.outcome == "completed":
            self._observe(declared.DURATION, model, record.finished - record.started)
            if not record.cached:
                self._observe_phases(record)

    def _count_tokens(self, record: RequestRecord) -> None:
        model, key, usage = record.model, record.key, record.usage
        if usage is None:
            return
        if record.cached:
            sources = {"response_cache": usage.prompt_tokens}
        else:
            sources = {
                "computed": usage.prompt_tokens - usage.cached_tokens,
                "memory": usage.cached_tokens - record.disk_tokens,
                "disk": record.disk_tokens,
            }
            self._add(declared.REASONING_TOKENS, model, amount=usage.reasoning_tokens)
        for source, tokens in sources.items():
            self._add(declared.PROMPT_TOKENS, model, key, source, amount=tokens)
        source = "response_cache" if record.cached else "computed"
        self._add(declared.GENERATION_TOKENS, model, key, source, amount=usage.completion_tokens)

    def _observe_phases(self, record: RequestRecord) -> None:
        model, usage, timing = record.model, record.usage, record.timing
        assert usage is not None and timing is not None
        self._observe(declared.WAITED, model, record.waited)
        self._observe(declared.PREPARED, model, record.prepared)
        self._observe(declared.QUEUE, model, timing.queue)
        self._observe(declared.PREFILL, model, timing.prompt)
        self._observe(declared.PROMPT_LENGTH, model, usage.prompt_tokens)
        if not record.reasons:  # vectors, rankings and decisions: there is no reply
            return
        self._observe(declared.DECODE, model, timing.completion)
        before = record.waited + record.prepared
        self._observe(declared.FIRST_TOKEN, model, before + timing.queue + timing.prompt)
        self._observe(declared.REPLY_LENGTH, model, usage.completion_tokens)
        # The choices of a request are computed together; vectors have none.
        gaps = usage.completion_tokens / max(1, len(record.reasons)) - 1
        if gaps > 0:
            self._observe(declared.PER_TOKEN, model, timing.completion / gaps)

    def _error(self, code: str) -> str:
        if code not in self._errors and len(self._errors) >= MOST_ERRORS:
            return OTHERS
        self._errors.add(code)
        return code

    def _add(self, metric: Metric, *labels: str, amount: float = 1) -> None:
        counter = self._children.get((metric, labels)) or self._child(metric, labels)
        counter.inc(amount)

    def _observe(self, metric: Metric, model: str, value: float) -> None:
        histogram = self._children.get((metric, (model,))) or self._child(metric, (model,))
        histogram.observe(max(0.0, value))  # the wall clock may have been set back

    def _child(self, metric: Metric, labels: tuple[str, ...]) -> Any:
        child = self._children[metric, labels] = self._made[metric].labels(*labels)
        return child


class _WithoutTimes:
    """What a registry collects, without a series for each that says when it began.

    The library's own switch for these is one for all of a process.
    """

    def __init__(self, registry: CollectorRegistry):
        self._registry = registry

    def collect(self) -> Iterator[Family]:
        """The metrics."""
        for family in self._registry.collect():
            family.samples = [each for each in family.samples if not each.name.endswith("_created")]
            yield family


class Recent:
    """The requests that ended last. written: tokens of the replies of all that ended. replayed:
    how many of these a stored reply answered.

    Those that only look at the server, and are answered, are left out.
    """

    def __init__(self) -> None:
        self.written = self.replayed = 0
        self._ended: deque[Exchange] = deque(maxlen=MOST_ENDED)

    def watch(self, exchange: Exchange) -> None:
        """Keep an exchange that is over, without its tokens."""
        if not (exchange.records or exchange.generates or exchange.method in ("POST", "DELETE")):
            return
        origin = replace(exchange.origin, generation=None, sink=None)
        self._ended.append(replace(exchange, origin=origin, headers={}))
        self.replayed += any(each.cached for each in exchange.records)
        usages = [each.usage for each in exchange.records if each.usage is not None]
        self.written += sum(usage.completion_tokens for usage in usages)

    @property
    def ended(self) -> Sequence[Exchange]:
        """The requests, the last one first."""
        return tuple(reversed(self._ended))


METRICS: web.AppKey[Metrics] = web.AppKey("metrics")
RECENT: web.AppKey[Recent] = web.AppKey("recent")
