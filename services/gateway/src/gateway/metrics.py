"""The gateway's metrics, in Prometheus's terms."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge

from offload_core import keys

if TYPE_CHECKING:
    from gateway.queues.service import QueueState

# So long the outcome of a health check is shown.
HEALTH_SECONDS = 600


class Metrics:
    """What /metrics shows."""

    def __init__(self) -> None:
        """Name the metrics."""
        self.registry = CollectorRegistry()
        self.accepted = Counter("offload_tasks_accepted_total", "Tasks accepted", ["kind"], registry=self.registry)
        self.problems = Counter("offload_problems_total", "Requests refused, by code", ["code"], registry=self.registry)
        self.leftover_uploads = Counter(
            "offload_leftover_uploads_total", "Uploads left for the clean-up to delete", registry=self.registry
        )
        self.dead_letters = Counter(
            "offload_dead_letters_total",
            "Dead letters by what operators did",
            ["queue", "outcome"],
            registry=self.registry,
        )
        self.messages = Gauge(
            "offload_queue_messages", "Messages by queue and place", ["queue", "place"], registry=self.registry
        )
        self.oldest_age = Gauge(
            "offload_queue_oldest_age_seconds",
            "How long the next message of a queue has waited",
            ["queue"],
            registry=self.registry,
        )
        self.paused = Gauge("offload_queue_paused", "1 for a queue that is paused", ["queue"], registry=self.registry)
        self.dependency_up = Gauge(
            "offload_dependency_up", "1 when it answered the last health check", ["dependency"], registry=self.registry
        )
        self.redis_failing = Gauge(
            "offload_redis_failing",
            "1 for the reason why Redis did not serve this gateway at this scrape",
            ["cause"],
            registry=self.registry,
        )
        self.upload_memory = Gauge(
            "offload_upload_memory_bytes", "Memory given out to uploads being received", registry=self.registry
        )
        self.event_streams = Gauge(
            "offload_event_streams", "Clients that follow events at this gateway", registry=self.registry
        )
        self.memory_share = Gauge(
            "offload_redis_memory_share", "Redis's memory in use, of its limit", registry=self.registry
        )

    def show(self, states: list[QueueState], found: dict[bytes, bytes]) -> None:
        """Take over how the queues are, and what the last health check found."""
        for state in states:
            for place in ("waiting", "running", "delayed", "dead"):
                self.messages.labels(state.name, place).set(getattr(state, place))
            self.oldest_age.labels(state.name).set(state.oldest_age_seconds)
            self.paused.labels(state.name).set(state.pause is not None)
        now_ms = time.time() * 1000
        checks = {name.decode(): value for name, value in found.items()}
        for name, value in checks.items():
            checked_at = checks.get(keys.checked_at(name))
            # Whoever checks a server may be scaled to zero. What it found last says nothing after a while.
            if checked_at is not None and now_ms - int(checked_at) < HEALTH_SECONDS * 1000:
                self.dependency_up.labels(name).set(value.replace(b".", b"").isdigit())
