"""Whether something new may be accepted at all: Redis's health, its memory, and the rate of the caller."""

from __future__ import annotations

import math
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from gateway.problems import Problem, redis_unavailable
from offload_core.task_store import Rate

if TYPE_CHECKING:
    from gateway.auth import Caller
    from gateway.intake.idempotency import Key
    from gateway.redis_watch import RedisWatch
    from gateway.settings import GatewaySettings

# Above this share of Redis's memory nothing new is accepted, so that what runs can end.
MEMORY_SHARE = 0.8


class Admission:
    """Refuses early what the accept script would refuse, and says how."""

    def __init__(self, redis: RedisWatch, settings: GatewaySettings) -> None:
        """Take what is known of Redis, and the limits."""
        self._redis = redis
        self._per_second = settings.rate_limit_per_second
        self._burst = settings.rate_limit_burst
        # The rate of each caller, which the script counts.
        self.rate = Rate(self._per_second, settings.rate_limit_burst) if self._per_second else None
        # Until when (monotonic) a caller that has just been refused is refused before its body is read.
        self._too_fast: dict[str, float] = {}

    @property
    def is_nearly_full(self) -> bool:
        """Whether nothing new is accepted, so that what runs can end."""
        return self._redis.memory_share > MEMORY_SHARE

    def check(self, caller: Caller, idempotency_key: Key | None) -> None:
        """Refuse before the body is read, where it is known already that it could not be accepted.

        With an idempotency key the task may have been accepted before: then the script decides.

        Raises:
            Problem: 503 ``redis.unavailable`` or ``redis.memory``, 429 ``rate.limited``.

        """
        if not self._redis.is_up:
            raise redis_unavailable()
        if idempotency_key is not None:
            return
        if self.is_nearly_full:
            raise self.nearly_full()
        if self._too_fast:
            wait_seconds = self._too_fast.get(caller.name, 0) - time.monotonic()
            if wait_seconds > 0:
                raise self._limited(wait_seconds)
            self._too_fast.pop(caller.name, None)

    def too_fast(self, caller: Caller, wait_seconds: float) -> Problem:
        """Note that the script has refused a caller, and return what to say."""
        self._too_fast[caller.name] = time.monotonic() + wait_seconds
        return self._limited(wait_seconds)

    def nearly_full(self) -> Problem:
        """Return what to say when Redis's memory is nearly full."""
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "redis.memory",
            "the queue's memory is nearly full; nothing new is accepted for now",
            retry_after=10,
        )

    def _limited(self, wait_seconds: float) -> Problem:
        wait, burst = math.ceil(wait_seconds), self._burst
        return Problem(
            HTTPStatus.TOO_MANY_REQUESTS,
            "rate.limited",
            f"this API key may post {self._per_second:g} tasks a second",
            retry_after=wait,
            # draft-ietf-httpapi-ratelimit-headers-10: so many in so many seconds; none left, more in so many.
            headers={
                "RateLimit-Policy": f'"tasks";q={burst};w={math.ceil(burst / self._per_second)}',
                "RateLimit": f'"tasks";r=0;t={wait}',
            },
        )
