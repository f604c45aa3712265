"""Collector: what models, plugins and the server say of themselves when Prometheus asks.

Nothing here wakes a model: those that are not loaded have the counts of their last life.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.utils import floatToGoString

from budmlx import __version__
from budmlx.engine.hosts.host import HostStatus
from budmlx.engine.models.models import Models
from budmlx.engine.models.resident import Resident
from budmlx.plugins import boundary
from budmlx.protocol import CoreCounts
from budmlx.protocol.counts import Histogram, Source, SourceCounts
from budmlx.server.in_flight import InFlight
from budmlx.server.records import BatchCounts
from budmlx.server.telemetry import declarations as declared
from budmlx.server.telemetry.declarations import Metric

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
Found = defaultdict[Metric, dict[tuple[str, ...], float | Histogram]]
"""Numbers, by the values of their labels."""


class ModelCollector:
    """Collects what can be asked for. connections: tells the number of clients."""

    def __init__(
        self,
        models: Models,
        in_flight: InFlight,
        connections: Callable[[], int],
        batches: Callable[[], BatchCounts],
    ):
        self._connections = connections
        self._batches = batches
        self._models = models
        self._in_flight = in_flight

    def collect(self) -> Iterator[Family]:
        """All of it."""
        found: Found = defaultdict(dict)
        found[declared.BUILD][(__version__,)] = 1
        found[declared.CONNECTIONS][()] = self._connections()
        found[declared.IN_FLIGHT][()] = self._in_flight.count
        _add_batches(found, self._batches())
        residents = [each for each in self._models.residents if each.loads]
        for each in residents:
            _add_model(found, each)
        self._add_plugins(found, residents)
        for metric in declared.COLLECTED:
            yield _family(metric, found[metric])

    def _add_plugins(self, found: Found, residents: list[Resident]) -> None:
        faults: Counter[tuple[str, ...]] = Counter()
        for counts in (boundary.FAULT_COUNTS, *(each.counts.faults for each in residents)):
            for plugin, kinds in counts.items():
                for kind, count in kinds.items():
                    faults[plugin, kind] += count
        found[declared.FAULTS].update(faults)
        hanging: Counter[tuple[str, ...]] = Counter()
        for plugins in {self._models.plugins, *(each.plugins for each in self._models.loaded)}:
            for (plugin, _), count in plugins.hanging.counts().items():
                hanging[(plugin,)] += count
        found[declared.HANGING].update(hanging)


def _add_batches(found: Found, counts: BatchCounts) -> None:
    found[declared.BATCHES_RUNNING][()] = counts.running
    found[declared.BATCH_LINES_WAITING][()] = counts.waiting
    for status in ("completed", "failed", "cancelled", "expired"):
        found[declared.BATCHES][(status,)] = counts.ended[status]
        found[declared.BATCH_LINES][(status,)] = counts.lines[status]


def _add_model(found: Found, resident: Resident) -> None:
    label, engine = (resident.name,), resident.engine
    found[declared.LOADED][label] = float(engine is not None)
    found[declared.LOADS][label] = resident.loads
    found[declared.LOAD_SECONDS][label] = resident.load_seconds or 0.0
    _add_counts(found, resident.name, resident.counts)
    if engine is not None:
        _add_status(found, resident.name, engine.status())


def _add_counts(found: Found, name: str, counts: CoreCounts) -> None:
    label, disk = (name,), counts.disk
    found[declared.BUSY][label] = counts.busy
    found[declared.BATCH_ROWS][label] = counts.rows
    found[declared.INTER_TOKEN][label] = counts.gaps
    found[declared.PREEMPTED][label] = counts.preempted
    found[declared.DRAFT_STEPS][label] = counts.drafts.steps
    for source in get_args(Source):
        drafts = counts.drafts.sources.get(source, SourceCounts())
        found[declared.DRAFTS][name, source] = drafts.checked
        found[declared.PARKED][name, source] = drafts.parked
        found[declared.DRAFTED][name, source] = drafts.tokens
        found[declared.ACCEPTED][name, source] = drafts.accepted
    found[declared.GRAMMARS][label] = counts.grammars
    found[declared.GRAMMARS_KEPT][label] = counts.grammars_kept
    found[declared.IMAGES][label] = counts.images
    for event in ("hits", "misses", "written", "dropped", "quarantined", "slower"):
        found[declared.KV_STORE][name, event] = getattr(disk, event)
    found[declared.KV_STORE_BYTES][name, "read"] = disk.hit_bytes
    found[declared.KV_STORE_BYTES][name, "written"] = disk.written_bytes
    for reason in ("crash", "hang", "load"):
        found[declared.RESTARTS][name, reason] = counts.restarts.get(reason, 0)


def _add_status(found: Found, name: str, status: HostStatus) -> None:
    label, memory, budget = (name,), status.memory, status.budget
    room = budget.limit - budget.weights
    found[declared.READY][label] = float(status.ready)
    found[declared.RUNNING][label] = status.running
    found[declared.WAITING][label] = status.waiting
    found[declared.MEMORY_LIMIT][label] = budget.limit
    found[declared.WEIGHTS][label] = budget.weights
    found[declared.KV_LIMIT][label] = budget.prefix_cache
    found[declared.KV_USAGE][label] = max(0, memory.active - budget.weights) / room if room else 0.0
    found[declared.STORED][label] = status.stored
    for kind in ("active", "unused", "peak"):
        found[declared.MEMORY][name, kind] = getattr(memory, kind)


def _family(metric: Metric, values: dict[tuple[str, ...], float | Histogram]) -> Family:
    if metric.kind == "histogram":
        histograms = HistogramMetricFamily(metric.name, metric.text, labels=metric.labels)
        bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
        for labels, value in values.items():
            assert isinstance(value, Histogram)
            counts = value.counts or [0] * len(bounds)
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            histograms.add_metric(labels, buckets, value.sum)
        return histograms
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.text, labels=metric.labels)
    for labels, value in values.items():
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)
    return family
