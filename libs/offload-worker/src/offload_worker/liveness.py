"""The heartbeat files that probes look at: their times say that the consumer's loop does its work.

The liveness file is touched once a second while the worker consumes, is full, waits for Redis's answer, or tries to
connect again. It grows old when the loop stands still, or turns without asking for messages. It stays fresh while Redis
is unavailable or silent: a restart would not help.

The readiness file is touched only while work is taken, and is removed when that ends.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from celery import bootsteps
from celery.worker import state

from celery_leases import leases

# A poll lasts a second at most; so long without one, and with a slot free, means that consuming has stopped.
POLL_LIMIT_SECONDS = 10.0


def touch(path: str) -> None:
    """Set the file's time to now."""
    Path(path).touch()


class LivenessStep(bootsteps.StartStopStep):
    """Stamps from the consumer's own loop."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- Celery's signature
        """Find out where the files are."""
        super().__init__(consumer, **kwargs)
        settings = self.settings_of(consumer.app)
        self._path: str | None = settings.liveness_file
        self._ready_path: str | None = settings.readiness_file
        self._timer: Any = None

    def settings_of(self, app: Any) -> Any:  # noqa: ANN401 -- an `OffloadApp`; a service's settings
        """Return the settings of the service."""
        return app.settings

    def start(self, consumer: Any) -> None:  # noqa: ANN401 -- Celery's signature
        """Begin to touch the files; called again after each reconnect."""
        if self._path is not None:
            touch(self._path)
        if self._path is not None or self._ready_path is not None:
            self._timer = consumer.timer.call_repeatedly(1.0, self._beat, (consumer,), priority=10)

    def stop(self, consumer: Any) -> None:  # noqa: ANN401, ARG002 -- Celery's signature
        """Stop; the connection's own retries touch the liveness file meanwhile."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ready_path is not None:
            Path(self._ready_path).unlink(missing_ok=True)

    def _beat(self, consumer: Any) -> None:  # noqa: ANN401 -- Celery's consumer
        full = len(state.reserved_requests) >= consumer.pool.num_processes
        polled = max((holder.polled_at or 0.0 for holder in leases.holders()), default=0.0)
        takes_work = full or time.monotonic() - polled < POLL_LIMIT_SECONDS
        waits = any(holder.awaited for holder in leases.holders())
        if self._path is not None and (takes_work or waits):
            touch(self._path)
        if self._ready_path is not None and takes_work:
            touch(self._ready_path)
