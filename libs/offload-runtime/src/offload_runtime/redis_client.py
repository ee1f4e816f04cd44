"""Redis as our services use it: bounded in time, and waited for."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, OutOfMemoryError, ReadOnlyError, TimeoutError  # noqa: A004
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

# Redis is away, starting, full, or a replica for the moment: waiting helps, and nothing has been written.
AWAY = (ConnectionError, TimeoutError, BusyLoadingError, OutOfMemoryError, ReadOnlyError)

SOCKET_TIMEOUT_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 1.0


def connect(url: str, *, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS) -> redis.Redis:
    """Return a client that answers or fails within `timeout_seconds`, and repeats nothing by itself."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
    )


def patiently[T](action: Callable[[], T], what: str, *, give_up: Callable[[], bool] = lambda: False) -> T:
    """Do `action`, again and again while Redis is away: an outage is nobody's failure.

    `action` must be safe to repeat. When `give_up` says so, the last error is raised.
    """
    pause = 0.05
    waited_since = time.monotonic()
    warned = False
    while True:
        try:
            result = action()
        except AWAY as error:
            if give_up():
                raise
            if not warned:
                logger.warning("waiting for Redis: %s: %s", what, type(error).__name__)
                warned = True
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        else:
            if warned:
                logger.info("went on after %.1f s without Redis: %s", time.monotonic() - waited_since, what)
            return result
