"""Traces: a span for each request for text, with its phases, for an OpenTelemetry collector.

Spans are made when a request is over, of the times that its records have, and sent by a thread of
the exporter's; nothing of that reaches a request.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from budmlx import __version__
from budmlx.plugins.specs import RequestRecord
from budmlx.server.records import Exchange
from budmlx.threads import run_apart

log = logging.getLogger(__name__)

NAME = "llm_request"
"""Of the span of a request, as vLLM has it."""
EXPORT_SECONDS = 5.0
CLOSE_SECONDS = 2.0
"""For the spans that are not sent yet when the server ends."""

Phase = tuple[str, float, float]
"""Name, begin and end of a part of a request, in seconds since 1970."""


class Traces:
    """Makes the spans of one server, and sends them to `endpoint`, an OTLP address for HTTP.

    What else there is to set is read by the library from OTEL_* variables: the service's name,
    headers, sampling.
    """

    def __init__(self, endpoint: str):
        name = os.environ.get("OTEL_SERVICE_NAME", "budmlx")
        resource = Resource.create({"service.name": name, "service.version": __version__})
        # The library's own end would hold back that of the process while a collector is away.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("budmlx", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def watch(self, exchange: Exchange) -> None:
        """Make the spans of an exchange that is over, if it was for text."""
        if not exchange.generates or exchange.late:
            return
        try:
            self._trace(exchange)
        except Exception:  # A boundary: no request fails because of its trace.
            log.exception("A trace could not be made")

    def close(self) -> None:
        """Send what was not sent yet, within `CLOSE_SECONDS`."""
        closing = run_apart("budmlx-traces", self._provider.shutdown)
        try:
            closing.result(CLOSE_SECONDS)
        except TimeoutError:
            log.warning("The last traces were not sent: the collector does not answer.")

    def _trace(self, exchange: Exchange) -> None:
        span = self._tracer.start_span(
            NAME,
            self._parent(exchange),
            SpanKind.SERVER,
            attributes=_attributes(exchange),
            start_time=_nanoseconds(exchange.origin.started),
        )
        if exchange.failure is not None:
            code = exchange.failure.code or str(exchange.failure.status)
            span.set_status(Status(StatusCode.ERROR, code))
            span.set_attribute("error.type", code)
        inside = set_span_in_context(span)
        for record in exchange.records:
            for name, begin, end in phases(record):
                part = self._tracer.start_span(name, inside, start_time=_nanoseconds(begin))
                part.end(_nanoseconds(end))
        span.end(_nanoseconds(exchange.ended))

    def _parent(self, exchange: Exchange) -> Context:
        return self._propagator.extract(exchange.headers, Context())


def phases(record: RequestRecord) -> Iterator[Phase]:
    """The parts of a request, as far as it came."""
    at = record.started + record.waited
    if record.prepared:
        yield "tokenize", at, at + record.prepared
    if (timing := record.timing) is None or record.cached:
        return
    at += record.prepared
    for name, seconds in (
        ("queue", timing.queue),
        ("prefill", timing.prompt),
        ("decode", timing.completion),
    ):
        yield name, at, at + seconds
        at += seconds


def _attributes(exchange: Exchange) -> Mapping[str, str | int | float]:
    origin = exchange.origin
    found: dict[str, str | int | float] = {
        "gen_ai.request.id": origin.request_id,
        "gen_ai.latency.e2e": exchange.ended - origin.started,
        "http.request.method": exchange.method,
        "http.route": origin.route,
    }
    if exchange.batch:
        found["budmlx.batch"] = exchange.batch
    if exchange.status:
        found["http.response.status_code"] = exchange.status
    if exchange.records:
        found |= _of_records(exchange.records)
    return found


def _of_records(records: list[RequestRecord]) -> Mapping[str, str | int | float]:
    """Of a completion of several prompts the sums, and the times of the first one."""
    first, usages = records[0], [each.usage for each in records if each.usage is not None]
    found: dict[str, str | int | float] = {"budmlx.outcome": first.outcome}
    if first.model:
        found["gen_ai.response.model"] = first.model
    for name, value in first.parameters.items():
        found[f"gen_ai.request.{name}"] = value
    if usages:
        found["gen_ai.usage.prompt_tokens"] = sum(each.prompt_tokens for each in usages)
        found["gen_ai.usage.completion_tokens"] = sum(each.completion_tokens for each in usages)
        found["budmlx.usage.cached_tokens"] = sum(each.cached_tokens for each in usages)
        found["gen_ai.usage.num_sequences"] = sum(len(each.reasons) for each in records)
    if (timing := first.timing) is not None and not first.cached:
        before = first.waited + first.prepared
        found["gen_ai.latency.time_in_queue"] = timing.queue
        found["gen_ai.latency.time_in_model_prefill"] = timing.prompt
        found["gen_ai.latency.time_in_model_decode"] = timing.completion
        found["gen_ai.latency.time_in_model_inference"] = timing.prompt + timing.completion
        found["gen_ai.latency.time_to_first_token"] = before + timing.queue + timing.prompt
    return found


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
