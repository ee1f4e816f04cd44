"""Our scheduler on Celery's: what is due of schedules, tasks, batches and queues, and the broker's sweep."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from celery.beat import Scheduler
from redis.exceptions import RedisError

from beat import built_in as built_in_schedules
from beat.runner import Runner
from celery_leases.options import Options
from celery_leases.reports import Reporter
from celery_leases.sweep import Sweeper
from offload_core import batches, queues
from offload_core.publisher import Publisher
from offload_core.redis_client import cause, connect, time_of
from offload_core.schedules import OURS, milliseconds
from offload_core.task_store import TaskStore
from offload_worker import liveness

if TYPE_CHECKING:
    from collections.abc import Mapping

    from beat.settings import BeatSettings
    from offload_core.schedules import Definition
    from offload_worker.celery_app import OffloadApp

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
# So often Offload's own schedules are looked for: a Redis that has lost everything gets them again.
CONFIGURED_SECONDS = 15.0
# One script takes so many expired tasks out of the lists, which takes Redis a few milliseconds.
FORGET_LIMIT = 500
# One script begins or cancels so many tasks of a batch, for the same reason; all of them so long in each tick.
BATCH_PIECE = 25
BATCHES_SECONDS = 0.3


class OccurrenceScheduler(Scheduler):
    """Publishes each occurrence of a schedule once, by Redis's clock. All it knows is in Redis; it may die anywhere."""

    def __init__(self, app: OffloadApp, *args: Any, built_in: Mapping[str, Definition], **kwargs: Any) -> None:  # noqa: ANN401 -- Celery's signature
        """Take Offload's own schedules; nothing is connected yet."""
        super().__init__(app, *args, **kwargs | {"lazy": True})
        self.max_interval = TICK_SECONDS
        self._settings: BeatSettings = app.settings  # type: ignore[assignment]
        self._built_in = built_in
        self._client = connect(app.settings)
        self._tasks = TaskStore.of(app.settings)
        self._runner = Runner(self._client, self._tasks, Publisher(OURS))
        options = Options.of(app.conf.broker_transport_options)
        self._sweeper, self._reporter = Sweeper(self._client, options), Reporter(lambda: self._client, options)
        self._is_unavailable = False
        # When (monotonic) it is looked again whether they are there.
        self._configured_until = 0.0
        # Until the next schedule is due.
        self._next_in_seconds = TICK_SECONDS

    def tick(self, *_: object, **__: object) -> float:
        """Publish what is due and sweep; returns the seconds until the next tick, which tries again if Redis fails."""
        started = time.monotonic()
        try:
            now = time_of(self._client)
            if started >= self._configured_until:
                built_in_schedules.configure(self._client, self._tasks, self._built_in, milliseconds(now))
                self._configured_until = started + CONFIGURED_SECONDS
            self._tasks.expire().run(self._client)
            while self._tasks.forget(FORGET_LIMIT).run(self._client) == FORGET_LIMIT:
                pass  # a burst of tasks has expired
            self._attend_batches()
            for call in queues.due(self._tasks, self._client, milliseconds(now)):
                call.run(self._client)
            self._next_in_seconds = self._runner.look()
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

    def _attend_batches(self) -> None:
        """Go on with batches that are due, for a part of this tick."""
        ends_at = time.monotonic() + BATCHES_SECONDS
        while batches.attend(self._tasks, BATCH_PIECE).run(self._client) and time.monotonic() < ends_at:
            pass
