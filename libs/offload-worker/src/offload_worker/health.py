"""The health check: does what a service stands on answer?"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from redis.exceptions import RedisError

from offload_core import blobs, keys
from offload_core.errors import StepError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import redis

logger = logging.getLogger(__name__)


class HealthCheck:
    """Checks servers in a thread of its own. One that answers slowly takes no slot of the pool."""

    def __init__(self, client: redis.Redis, prefix: str, checks: Mapping[str, Callable[[], object]]) -> None:
        """Take what is to be checked, by name: each check raises when the server does not answer."""
        self._client = client
        self._key = keys.health(prefix)
        self._checks = checks
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Start a check, and do not wait for it. Returns False while the one before is still running."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                logger.error("health: the previous check is still running")
                return False
            self._thread = _in_background(self._check)
            return True

    def repeat(self, seconds: float) -> None:
        """Check now, and every so many seconds from then on, unless another process has done it meanwhile."""
        _in_background(lambda: self._repeat(seconds))

    def _repeat(self, seconds: float) -> None:
        while True:
            if self._is_due(seconds):
                self._check()
            time.sleep(seconds)

    def _is_due(self, seconds: float) -> bool:
        names = [keys.checked_at(name) for name in self._checks]
        try:
            found: list[Any] = self._client.hmget(self._key, names)
        except RedisError:
            return True
        # Each process of a fleet asks at its own moments: half a pause is soon enough for all of them together.
        oldest_ms = min(int(at or 0) for at in found)
        return time.time() * 1000 - oldest_ms >= seconds * 1000 / 2

    def _check(self) -> None:
        """Write milliseconds by name, or the error's name, to the log, the metrics and Redis."""
        up = metrics.get_meter("offload").create_gauge(
            "offload.dependency.up", description="1 when it answered, else 0"
        )
        figures: dict[str, float | str] = {}
        for name, check in self._checks.items():
            started = time.monotonic()
            try:
                check()
                figures[name] = round((time.monotonic() - started) * 1000, 1)
            except StepError as error:
                figures[name] = error.code
            except (blobs.BlobError, RedisError, OSError) as error:
                figures[name] = type(error).__name__
            up.set(1 if isinstance(figures[name], float) else 0, {"offload.dependency": name})
        healthy = all(isinstance(value, float) for value in figures.values())
        logger.log(logging.INFO if healthy else logging.ERROR, "health: %s", figures)
        now_ms = round(time.time() * 1000)
        found: dict[Any, Any] = {**figures, **{keys.checked_at(name): now_ms for name in figures}}
        try:
            self._client.hset(self._key, mapping=found)
        except RedisError as error:
            logger.error("health: the result cannot be stored: %s", type(error).__name__)  # noqa: TRY400


def _in_background(target: Callable[[], object]) -> threading.Thread:
    """Start a thread that nobody waits for: a worker that stops waits for no check."""
    thread = threading.Thread(target=target, name="health", daemon=True)
    thread.start()
    return thread
