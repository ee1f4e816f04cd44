"""The health check: does what Offload stands on answer?"""

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
    from collections.abc import Callable

    import redis

    from mail_worker.settings import MailWorkerSettings
    from mail_worker.smtp import Sender

logger = logging.getLogger(__name__)


class HealthChecker:
    """Checks Redis, the blob store and the SMTP server in a thread of its own.

    A server that answers slowly takes no slot of the pool: mails wait for no check.
    """

    def __init__(
        self, settings: MailWorkerSettings, client: redis.Redis, store: blobs.BlobStore, sender: Sender
    ) -> None:
        """Take what is to be checked; nothing is connected yet."""
        self._settings, self._client = settings, client
        # In this order: what is slowest comes last.
        self._checks: dict[str, Callable[[], object]] = {
            "redis": client.ping,
            "blob": lambda: store.exists("ping"),
            "smtp": lambda: sender.check(settings.health_timeout_seconds),
        }
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Start a check, and do not wait for it. Returns False while the one before is still running."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                logger.error("health: the previous check is still running")
                return False
            # A daemon: a worker that stops waits for no check.
            self._thread = threading.Thread(target=self._check, name="health", daemon=True)
            self._thread.start()
            return True

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
        found: dict[Any, Any] = {**figures, "checked_at": round(time.time() * 1000)}
        try:
            self._client.hset(keys.health(self._settings.key_prefix), mapping=found)
        except RedisError as error:
            logger.error("health: the result cannot be stored: %s", type(error).__name__)  # noqa: TRY400
