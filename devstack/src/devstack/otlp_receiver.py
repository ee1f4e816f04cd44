"""A real OTLP/HTTP receiver for traces and histograms, that can be silent on demand."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True, slots=True)
class Span:
    """One span as it came."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: dict[str, object]

    @property
    def milliseconds(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e6


@dataclass(frozen=True, slots=True)
class Histogram:
    """One point of a histogram as it came: what was measured so far with these attributes."""

    name: str
    attributes: dict[str, str]
    count: int
    # The traces of its exemplars.
    trace_ids: frozenset[str]


class OtlpReceiver:
    """Takes spans and histograms on a port of this machine, until stopped."""

    def __init__(self, port: int) -> None:
        """Prepare a receiver."""
        self.port = port
        self.endpoint = f"http://127.0.0.1:{port}"
        self._spans: list[Span] = []
        self._histograms: list[Histogram] = []
        self._bodies: list[bytes] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        # While it is set, requests are taken and never answered.
        self.silent = threading.Event()
        self._stopping = threading.Event()

    @property
    def spans(self) -> list[Span]:
        """All spans so far."""
        with self._lock:
            return list(self._spans)

    @property
    def histograms(self) -> list[Histogram]:
        """All points of histograms so far."""
        with self._lock:
            return list(self._histograms)

    @property
    def dump(self) -> bytes:
        """All that has come, of every signal, as it came."""
        with self._lock:
            return b"\n".join(self._bodies)

    def trace(self, trace_id: str) -> list[Span]:
        """Return one trace's spans in the order of their start."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start_ns)

    def start(self) -> OtlpReceiver:
        """Begin to listen."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.silent.is_set():
                    receiver._stopping.wait(60)
                    return
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with receiver._lock:
                    receiver._bodies.append(body)
                if self.path.endswith("/v1/traces"):
                    receiver._take(body)
                elif self.path.endswith("/v1/metrics"):
                    receiver._take_metrics(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Say nothing: a worker that was killed left its connection open."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, name="otlp", daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _take_metrics(self, body: bytes) -> None:
        request = ExportMetricsServiceRequest.FromString(body)
        found = [
            Histogram(
                metric.name,
                {one.key: one.value.string_value for one in point.attributes},
                point.count,
                frozenset(exemplar.trace_id.hex() for exemplar in point.exemplars),
            )
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.histogram.data_points
        ]
        with self._lock:
            self._histograms += found

    def _take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        found = []
        for resource in request.resource_spans:
            service = next(
                (one.value.string_value for one in resource.resource.attributes if one.key == "service.name"), ""
            )
            for scope in resource.scope_spans:
                for span in scope.spans:
                    attributes = {
                        one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value")
                        for one in span.attributes
                    }
                    found.append(
                        Span(
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            service,
                            span.name,
                            span.kind,
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                            span.status.code == 2,  # noqa: PLR2004 -- ERROR
                            attributes,
                        )
                    )
        with self._lock:
            self._spans += found
