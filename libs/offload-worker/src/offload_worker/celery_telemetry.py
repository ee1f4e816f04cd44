"""What we add to the Celery instrumentation: fork safety, publishing by name, queue wait, and spans of lost runs."""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from billiard.exceptions import WorkerLostError
from celery import signals
from celery.worker.request import Request
from opentelemetry import metrics, propagate, trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.trace import SpanKind, Status, StatusCode

from offload_core import telemetry
from offload_core.messages import PUBLISHED_AT
from offload_worker.fence import Fence

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_parent: telemetry.Telemetry | None = None


class _Instrumentor(CeleryInstrumentor):
    """The instrumentation, with publishing spans that end also when the task is known by its name alone.

    The original leaves such a span current for ever; a later one would hang under it.
    """

    def _trace_before_publish(self, *_: object, **kwargs: Any) -> None:  # noqa: ANN401 -- Celery's signal
        headers: dict[str, Any] = kwargs["headers"]
        headers.setdefault(PUBLISHED_AT, time.time())
        name, queue = kwargs["sender"], kwargs["routing_key"]
        attributes = telemetry.publish_attributes(name, queue, headers["id"])
        span = self._tracer.start_span(f"apply_async/{name}", kind=SpanKind.PRODUCER, attributes=attributes)
        activation = trace.use_span(span, end_on_exit=True)
        activation.__enter__()
        self.publishing[headers["id"]] = activation
        propagate.inject(headers)

    def _trace_after_publish(self, *_: object, **kwargs: Any) -> None:  # noqa: ANN401 -- Celery's signal
        activation = self.publishing.pop(kwargs["headers"]["id"], None)
        if activation is not None:
            activation.__exit__(None, None, None)


def instrument(service: str, pool: str) -> None:
    """Let a worker tell of its work. Children of a prefork pool begin after their fork; a pool of threads at once."""
    if not telemetry.is_enabled():
        return
    if pool == "prefork":

        def child_starts(**_: object) -> None:
            global _parent  # noqa: PLW0603 -- the parent's is not ours
            _parent = None
            started = telemetry.start(service, limit_seconds=telemetry.CHILD_SECONDS)
            _connect()
            if started is not None:
                signals.worker_process_shutdown.connect(lambda **_: started.shutdown(), weak=False)

        def parent_starts(**_: object) -> None:
            global _parent  # noqa: PLW0603 -- one a process
            _parent = telemetry.build(service)

        signals.worker_process_init.connect(child_starts, weak=False)
        signals.worker_ready.connect(parent_starts, weak=False)
        signals.worker_shutdown.connect(_parent_ends, weak=False)
        return

    def starts(**_: object) -> None:
        global _parent  # noqa: PLW0603 -- one a process
        _parent = telemetry.start(service)
        _connect()

    signals.worker_init.connect(starts, weak=False)
    signals.worker_shutdown.connect(_parent_ends, weak=False)


def _parent_ends(**_: object) -> None:
    if _parent is not None:
        _parent.shutdown()


def _connect() -> None:
    """Connect the instrumentation, and after it what is about a run's begin: before it there would be no span."""

    def ends(task: Any, state: str | None, **_: object) -> None:  # noqa: ANN401 -- Celery's signal
        """Measure a run, within its span, whose trace is the measurement's exemplar.

        One that its process could not finish is marked: told to end, it unwinds, and sends the span that is open.
        """
        begun_at = getattr(task.request, "begun_at", None)
        if begun_at is not None:
            outcome = (state or "interrupted").lower()
            duration.record(time.monotonic() - begun_at, {"celery.task_name": task.name, "offload.outcome": outcome})
        if state is None:
            span = trace.get_current_span()
            span.set_attribute("error.type", "task.interrupted")
            span.set_status(Status(StatusCode.ERROR, "its process was told to end"))

    meter = metrics.get_meter("offload")
    duration = meter.create_histogram(
        "offload.task.duration",
        unit="s",
        description="How long the run of a step took, by how it ended",
        explicit_bucket_boundaries_advisory=telemetry.DURATION_BUCKETS,
    )
    # Before the instrumentation, which ends the span.
    signals.task_postrun.connect(ends, weak=False)
    instrumentor = _Instrumentor()
    instrumentor.publishing = {}
    instrumentor.instrument()
    wait = meter.create_histogram(
        "offload.queue.wait",
        unit="s",
        description="From publishing (or being due) to the start of the step",
        explicit_bucket_boundaries_advisory=telemetry.QUEUE_WAIT_BUCKETS,
    )

    def begins(task: Any, **_: object) -> None:  # noqa: ANN401 -- Celery's signal
        request = task.request
        request.begun_at = time.monotonic()
        queue = (request.delivery_info or {}).get("routing_key") or ""
        waited = queue_wait_seconds(request)
        span = trace.get_current_span()
        span.set_attributes(run_attributes(task.name, queue, request))
        if waited is not None:
            wait.record(waited, {"messaging.destination.name": queue, "celery.task_name": task.name})
            span.set_attribute("offload.queue.wait_seconds", waited)

    def fails(exception: BaseException, **_: object) -> None:
        trace.get_current_span().set_attribute("error.type", getattr(exception, "code", type(exception).__name__))

    signals.task_prerun.connect(begins, weak=False)
    signals.task_failure.connect(fails, weak=False)


def run_attributes(task: str, queue: str, request: Any) -> dict[str, Any]:  # noqa: ANN401 -- Celery's request
    """Return the attributes of a running span by the current conventions, with the real worker's name."""
    attributes = {
        "celery.task_name": task,
        "messaging.system": telemetry.SYSTEM,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": queue,
        "messaging.message.id": request.id,
        "messaging.message.conversation_id": getattr(request, "root_id", None) or request.id,
        "offload.delivery_count": Fence.of(request).delivery,
        "offload.worker": getattr(request, "hostname", None) or "",
    }
    pod = os.environ.get("POD_NAME")
    return attributes | ({"k8s.pod.name": pod} if pod else {})


def queue_wait_seconds(request: Any) -> float | None:  # noqa: ANN401 -- Celery's request
    """Return how long the message waited, a delay that was asked for not counted; None when it does not say."""
    published_at = getattr(request, PUBLISHED_AT, None)
    if published_at is None:
        return None
    since = float(published_at)
    eta = getattr(request, "eta", None)
    if eta:
        since = max(since, datetime.fromisoformat(eta).timestamp())
    return max(time.time() - since, 0.0)


class ObservedRequest(Request):
    """Celery's request, which tells of runs that could not tell of themselves: the child that ran them is gone."""

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 -- Celery's signature
        """Note a hard limit."""
        if not soft:
            _lost_run(self, "task.time_limit")
        super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 -- Celery's signature
        """Note a child that was lost."""
        if isinstance(getattr(exc_info.exception, "exc", exc_info.exception), WorkerLostError):
            _lost_run(self, "task.worker_lost")
        return super().on_failure(exc_info, send_failed_event, return_ok)


def _lost_run(request: Request, code: str) -> None:
    """Count it, and emit the run's span from the message's headers."""
    if _parent is None:
        return
    provider: TracerProvider = _parent.tracer_provider
    meter = _parent.meter_provider.get_meter("offload")
    counter = meter.create_counter("offload.runs.lost", description="Runs whose process was ended or died, by code")
    counter.add(1, {"error.type": code, "celery.task_name": request.task_name})
    headers = {name: value for name, value in request.request_dict.items() if name in {"traceparent", "tracestate"}}
    started_at = int((request.time_start or time.time()) * 1e9)
    queue = (request.delivery_info or {}).get("routing_key") or ""
    span = provider.get_tracer("offload").start_span(
        f"run/{request.task_name}",
        context=propagate.extract(headers),
        kind=SpanKind.CONSUMER,
        start_time=started_at,
        attributes=run_attributes(request.task_name, queue, request) | {"error.type": code},
    )
    span.set_status(Status(StatusCode.ERROR, code))
    span.end()
