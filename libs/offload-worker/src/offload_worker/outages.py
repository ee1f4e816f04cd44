"""An outage of Redis is nobody's failure: whatever a worker asks of it waits until it answers."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from celery_leases import worker
from offload_core.redis_client import UNAVAILABLE, cause
from offload_worker import event_loop, time_limits

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 1.0


def wait_for_redis[T](action: Callable[[], T], what: str) -> T:
    """Do `action`, again and again while Redis is unavailable. The step's time limits do not count the wait.

    `action` must be safe to repeat. In a worker that stops, the last error is raised.
    """
    with time_limits.suspended():
        return event_loop.blocking(lambda: _until_it_answers(action, what))


def _until_it_answers[T](action: Callable[[], T], what: str) -> T:
    pause = 0.05
    waited_since = time.monotonic()
    warned = False
    while True:
        try:
            result = action()
        except UNAVAILABLE as error:
            if worker.is_stopping():
                raise
            if not warned:
                logger.warning("waiting for Redis (%s): %s: %s", cause(error), what, error)
                warned = True
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        else:
            if warned:
                logger.info("went on after %.1f s without Redis: %s", time.monotonic() - waited_since, what)
            return result
