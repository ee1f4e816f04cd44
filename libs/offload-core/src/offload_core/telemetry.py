"""OpenTelemetry for every service: OTLP over HTTP, configured by the standard ``OTEL_*`` variables.

Without ``OTEL_EXPORTER_OTLP_ENDPOINT`` nothing is installed and nothing is paid. Export and shutdown are bounded in
time: a collector that is unavailable or silent must not hold a worker.
"""

from __future__ import annotations

# Both are imported late by those who use them, in our exporter's thread. A pool's child that is forked at that moment
# would wait for ever for the import's lock, and lose its spans: so they are imported before anything is forked.
import encodings.idna  # noqa: F401
import netrc  # noqa: F401
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, propagate, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status

from offload_core.logs import redact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A pool's child holds its slot until its spans are out; a parent may take longer, and still ends within its grace.
CHILD_SECONDS = 1.0
PARENT_SECONDS = 5.0
# From "at once" to half an hour: the waits that operators ask about (see docs/reference/metrics.md).
DURATION_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
QUEUE_WAIT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


# What the messaging conventions call the system.
SYSTEM = "celery"


def is_enabled() -> bool:
    """Return whether spans go anywhere."""
    configured = "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ or "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in os.environ
    return configured and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"


class _Redacting(SpanExporter):
    """Leaves e-mail addresses, queries, links' tokens and API keys out of spans on their way out."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([_redacted(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


# What the instrumentations call a request's query, alone or within a URL. It may hold addresses and links' tokens.
_QUERIES = frozenset({"url.query"})
_URLS = frozenset({"http.url", "http.target", "url.full", "url.original"})


def _redacted(span: ReadableSpan) -> ReadableSpan:
    for event in span.events:
        if changed := _redacted_attributes(event.attributes):
            event._attributes = changed  # noqa: SLF001 -- the SDK has no way to change an event on its way out
    description = span.status.description
    if description and redact(description) != description:
        span._status = Status(span.status.status_code, redact(description))  # noqa: SLF001 -- the same
    if changed := _redacted_attributes(span.attributes):
        span._attributes = changed  # noqa: SLF001 -- the same
    if redact(span.name) != span.name:
        span._name = redact(span.name)  # noqa: SLF001 -- the same
    return span


def _redacted_attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the attributes with what nobody should read left out; None where there is no such thing."""
    changed = {}
    for name, value in (attributes or {}).items():
        if isinstance(value, str):
            clean = "<redacted>" if name in _QUERIES and value else redact(value)
            if name in _URLS and "?" in clean:
                clean = clean.partition("?")[0] + "?<redacted>"
            if clean != value:
                changed[name] = clean
    return dict(attributes or {}) | changed if changed else None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The providers of one process."""

    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    limit_seconds: float

    def shutdown(self) -> None:
        """Send what is left, within the limit; what a silent collector does not take is given up."""

        def stop() -> None:
            self.tracer_provider.shutdown()
            self.meter_provider.shutdown()

        thread = threading.Thread(target=stop, daemon=True)
        thread.start()
        thread.join(self.limit_seconds)


def build(service: str, *, limit_seconds: float = PARENT_SECONDS) -> Telemetry | None:
    """Return providers of their own, or None where telemetry is off."""
    if not is_enabled():
        return None
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", service)})
    tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = _Redacting(OTLPSpanExporter(timeout=limit_seconds))
    delay_ms = int(os.environ.get("OTEL_BSP_SCHEDULE_DELAY", "1000"))
    tracer_provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay_ms))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=limit_seconds))
    return Telemetry(tracer_provider, MeterProvider([reader], resource, shutdown_on_exit=False), limit_seconds)


def start(service: str, *, limit_seconds: float = PARENT_SECONDS) -> Telemetry | None:
    """Make this process's providers the global ones. Call it after any fork, once."""
    telemetry = build(service, limit_seconds=limit_seconds)
    if telemetry is not None:
        trace.set_tracer_provider(telemetry.tracer_provider)
        metrics.set_meter_provider(telemetry.meter_provider)
    return telemetry


def trace_headers() -> dict[str, str]:
    """Return the current trace context as message headers."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


def traceparent() -> str:
    """Return the current trace context as the header of that name, or the empty string."""
    return trace_headers().get("traceparent", "")


def trace_id_of(headers: Mapping[str, str]) -> str:
    """Return the trace id of message headers, or the empty string."""
    parts = headers.get("traceparent", "").split("-")
    return parts[1] if len(parts) > 1 else ""


def publish_attributes(task: str, queue: str, message_id: str) -> dict[str, str]:
    """Return the attributes of a publishing span, by the current conventions and by those of the instrumentation."""
    return {
        "celery.action": "apply_async",
        "celery.task_name": task,
        "messaging.system": SYSTEM,
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": queue,
        "messaging.message.id": message_id,
    }
