"""The gateway's metrics, in Prometheus's terms."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from offload_core import keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import Metric

    from gateway.queues.service import QueueState

# So long the outcome of a health check is shown.
HEALTH_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Shared:
    """What is the same for all gateways, as Redis has it: one of them exports it."""

    queues: list[QueueState]
    # What the last health check found.
    health: Mapping[bytes, bytes]
    # How many tasks of a kind ended in a state today (UTC): ``kind:state`` to number.
    ended: Mapping[bytes, bytes]
    # When beat looked last (ms); None: never.
    beat_looked_at: int | None
    # Endpoints of webhooks, by how they do.
    endpoints: Mapping[str, int]


@dataclass(slots=True, eq=False)
class _FromRedis(Collector):
    """What others count in Redis; nothing where another gateway exports it."""

    shared: Shared | None = None

    def collect(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "offload_tasks_ended", "Tasks that ended, by kind and state", labels=["kind", "state"]
        )
        age = GaugeMetricFamily("offload_beat_look_age_seconds", "How long ago beat has looked for what is due")
        if self.shared is not None:
            # It begins anew each day, as a counter does after a restart.
            for name, count in sorted(self.shared.ended.items()):
                kind, _, state = name.decode().rpartition(":")
                ended.add_metric([kind, state], int(count))
            if self.shared.beat_looked_at is not None:
                age.add_metric([], max(time.time() - self.shared.beat_looked_at / 1000, 0))
        yield from (ended, age)


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
        self.endpoints = Gauge(
            "offload_webhook_endpoints", "Endpoints of webhooks by how they do", ["state"], registry=self.registry
        )
        self.unsafe = Gauge(
            "offload_redis_unsafe", "1 while Redis's settings may lose accepted tasks", registry=self.registry
        )
        self._from_redis = _FromRedis()
        self.registry.register(self._from_redis)
        self.memory_share = Gauge(
            "offload_redis_memory_share", "Redis's memory in use, of its limit", registry=self.registry
        )

    def forget(self) -> None:
        """Show nothing of what is the same for all gateways, nor of how Redis does."""
        for gauge in (
            self.messages,
            self.oldest_age,
            self.paused,
            self.endpoints,
            self.dependency_up,
            self.redis_failing,
        ):
            gauge.clear()
        self._from_redis.shared = None

    def show(self, shared: Shared) -> None:
        """Take over what is the same for all gateways."""
        for state in shared.queues:
            for place in ("waiting", "running", "delayed", "dead"):
                self.messages.labels(state.name, place).set(getattr(state, place))
            self.oldest_age.labels(state.name).set(state.oldest_age_seconds)
            self.paused.labels(state.name).set(state.pause is not None)
        for name, count in shared.endpoints.items():
            self.endpoints.labels(name).set(count)
        self._from_redis.shared = shared
        now_ms = time.time() * 1000
        checks = {name.decode(): value for name, value in shared.health.items()}
        for name, value in checks.items():
            checked_at = checks.get(keys.checked_at(name))
            # Whoever checks a server may be scaled to zero. What it found last says nothing after a while.
            if checked_at is not None and now_ms - int(checked_at) < HEALTH_SECONDS * 1000:
                self.dependency_up.labels(name).set(value.replace(b".", b"").isdigit())
