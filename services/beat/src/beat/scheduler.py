"""Our scheduler on Celery's: occurrences claimed by one script, and the broker's sweep."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from celery.beat import Scheduler
from opentelemetry import metrics
from redis.exceptions import RedisError

from beat.tenant_schedules import TenantSchedules
from celery_leases.options import Options
from celery_leases.reports import Reporter
from celery_leases.sweep import Sweeper
from offload_core import batches, keys, queues
from offload_core.publisher import Publisher
from offload_core.redis_client import cause, connect, time_of
from offload_core.task_store import TaskScript, TaskStore
from offload_worker import liveness

if TYPE_CHECKING:
    from datetime import datetime

    from beat.schedules import Schedule
    from beat.settings import BeatSettings
    from offload_worker.celery_app import OffloadApp

logger = logging.getLogger(__name__)

OWNER = "beat"
TICK_SECONDS = 1.0
# One script takes so many expired tasks out of the lists, which takes Redis a few milliseconds.
FORGET_LIMIT = 500
# One script begins or cancels so many tasks of a batch, for the same reason; all of them so long in each tick.
BATCH_PIECE = 25
BATCHES_SECONDS = 0.3

_OCCURRENCE = TaskScript("beat/lua/occurrence.lua")


class OccurrenceScheduler(Scheduler):
    """Publishes each occurrence of a schedule once, by Redis's clock. All it knows is in Redis; it may die anywhere."""

    def __init__(self, app: OffloadApp, *args: Any, built_in: tuple[Schedule, ...] = (), **kwargs: Any) -> None:  # noqa: ANN401 -- Celery's signature
        """Take the schedules; nothing is connected yet."""
        super().__init__(app, *args, **kwargs | {"lazy": True})
        self.max_interval = TICK_SECONDS
        self._settings: BeatSettings = app.settings  # type: ignore[assignment]
        self._built_in = built_in
        self._client = connect(app.settings)
        self._publisher = Publisher(OWNER)
        self._tasks = TaskStore.of(app.settings)
        self._tenants = TenantSchedules(self._client, self._tasks, self._publisher)
        options = Options.of(app.conf.broker_transport_options)
        self._sweeper, self._reporter = Sweeper(self._client, options), Reporter(lambda: self._client, options)
        # Occurrences that are known to be published: the script decides, this only spares it the question.
        self._done: dict[str, datetime] = {}
        self._is_unavailable = False
        self._has_begun = False
        # Until the next schedule is due.
        self._next_in_seconds = TICK_SECONDS

    def tick(self, *_: object, **__: object) -> float:
        """Publish what is due and sweep; returns the seconds until the next tick, which tries again if Redis fails."""
        started = time.monotonic()
        try:
            now = time_of(self._client)
            self._begin(now)
            for schedule in self._built_in:
                self._publish_due(schedule, now)
            self._tasks.expire().run(self._client)
            while self._tasks.forget(FORGET_LIMIT).run(self._client) == FORGET_LIMIT:
                pass  # a burst of tasks has expired
            self._attend_batches()
            for call in queues.due(self._tasks, self._client, round(now.timestamp() * 1000)):
                call.run(self._client)
            self._next_in_seconds = self._tenants.look()
            self._reporter.notice(self._sweeper.sweep().unreported)
        except RedisError as error:
            if not self._is_unavailable:
                logger.warning("waiting for Redis (%s), which is tried each second: %s", cause(error), error)
            self._is_unavailable = True
        else:
            self._is_unavailable = False
            if self._settings.readiness_file is not None:
                liveness.touch(self._settings.readiness_file)
        if self._settings.liveness_file is not None:
            liveness.touch(self._settings.liveness_file)
        return max(min(TICK_SECONDS - (time.monotonic() - started), self._next_in_seconds), 0.05)

    def should_sync(self) -> bool:
        """Return that there is nothing to write down: it is in Redis."""
        return False

    def sync(self) -> None:
        """Write nothing."""

    def _begin(self, now: datetime) -> None:
        """Note when a schedule was first known: occurrences before that were not missed, they never were."""
        if not self._has_begun:
            for schedule in self._built_in:
                self._client.hsetnx(
                    keys.occurrences(self._settings.key_prefix), schedule.name, round(now.timestamp() * 1000)
                )
            self._has_begun = True

    def _attend_batches(self) -> None:
        """Go on with batches that are due, for a part of this tick."""
        ends_at = time.monotonic() + BATCHES_SECONDS
        while batches.attend(self._tasks, BATCH_PIECE).run(self._client) and time.monotonic() < ends_at:
            pass

    def _publish_due(self, schedule: Schedule, now: datetime) -> None:
        occurrence = schedule.due(now)
        if occurrence is None or self._done.get(schedule.name) == occurrence:
            return
        outcome = self._publish(schedule, occurrence)
        if outcome != "early":
            self._done[schedule.name] = occurrence
        if outcome == "recovered":
            metrics.get_meter("offload").create_counter(
                "offload.beat.clock_ahead",
                description="Occurrences published although a later one had been, while Redis's clock was ahead",
            ).add(1, {"offload.schedule": schedule.name})
            logger.warning(
                "Redis's clock was ahead: a later occurrence of %s was published; going on by the clock as it is now",
                schedule.name,
            )
        logger.info("occurrence %s: %s", schedule.task_id(occurrence), outcome)

    def _publish(self, schedule: Schedule, occurrence: datetime) -> str:
        settings = self._settings
        with self._publisher.publishing(schedule.task_id(occurrence), "maintenance", OWNER, [schedule.step]) as task:
            (message,) = task.envelopes
            call = _OCCURRENCE.of(
                prefix=settings.key_prefix,
                broker_prefix=settings.broker_prefix,
                schedule=schedule.name,
                occurrence=round(occurrence.timestamp() * 1000),
                grace_ms=round(schedule.latest.total_seconds() * 1000),
                task_id=task.task_id,
                queue=message.queue,
                message_key=message.message_key,
                message=message.text,
                fields=task.fields(),
            )
            outcome: str = call.run(self._client).decode()
            return outcome
