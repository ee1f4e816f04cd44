"""Whether something new may be accepted at all: Redis's health, its memory, and the rate of the caller."""

from __future__ import annotations

import math
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from gateway.problems import Problem, redis_unavailable
from offload_core.task_store import Limits, Rate

if TYPE_CHECKING:
    from gateway.auth import Caller
    from gateway.intake.idempotency import Key
    from gateway.redis_watch import RedisWatch
    from gateway.settings import GatewaySettings

# Above this share of Redis's memory nothing new is accepted, so that what runs can end.
MEMORY_SHARE = 0.8
# What is said of a rate that was lifted while the script refused somebody for it.
_LIFTED = Rate(1, 1)


class Admission:
    """Refuses early what the accept script would refuse, and says how."""

    def __init__(self, redis: RedisWatch, settings: GatewaySettings) -> None:
        """Take what is known of Redis, and the limits."""
        self._redis = redis
        self._per_second, self._burst = settings.rate_limit_per_second, settings.rate_limit_burst
        self._settings = settings
        # Until when (monotonic) a caller that has just been refused is refused before its body is read.
        self._too_fast: dict[str, float] = {}

    @property
    def is_nearly_full(self) -> bool:
        """Whether nothing new is accepted, so that what runs can end."""
        return self._redis.memory_share > MEMORY_SHARE

    def limits(self, caller: Caller) -> Limits:
        """Return what the scripts that accept tasks hold a caller to."""
        return Limits(
            waiting=self._settings.queue_limit,
            delayed=self._settings.delayed_limit,
            tenant_waiting=caller.limits.max_waiting or 0,
            is_nearly_full=self.is_nearly_full,
            rate=self._rate(caller),
        )

    def _rate(self, caller: Caller) -> Rate | None:
        per_second = caller.limits.rate_per_second or self._per_second
        return Rate(per_second, caller.limits.burst or self._burst) if per_second else None

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
            wait_seconds = self._too_fast.get(caller.tenant, 0) - time.monotonic()
            # A limit that was lifted holds nobody up.
            if wait_seconds > 0 and (rate := self._rate(caller)):
                raise self._limited(rate, wait_seconds)
            self._too_fast.pop(caller.tenant, None)

    def too_fast(self, caller: Caller, wait_seconds: float) -> Problem:
        """Note that the script has refused a caller, and return what to say."""
        self._too_fast[caller.tenant] = time.monotonic() + wait_seconds
        return self._limited(self._rate(caller) or _LIFTED, wait_seconds)

    def tenant_full(self, waiting: int) -> Problem:
        """Return what to say when a tenant has as many tasks that wait as it may have."""
        return Problem(
            HTTPStatus.TOO_MANY_REQUESTS,
            "tenant.full",
            f"{waiting} tasks of this tenant have not started: its limit is reached",
            retry_after=10,
        )

    def nearly_full(self) -> Problem:
        """Return what to say when Redis's memory is nearly full."""
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "redis.memory",
            "the queue's memory is nearly full; nothing new is accepted for now",
            retry_after=10,
        )

    def _limited(self, rate: Rate, wait_seconds: float) -> Problem:
        wait = math.ceil(wait_seconds)
        return Problem(
            HTTPStatus.TOO_MANY_REQUESTS,
            "rate.limited",
            f"this tenant may post {rate.per_second:g} tasks a second",
            retry_after=wait,
            # draft-ietf-httpapi-ratelimit-headers-10: so many in so many seconds; none left, more in so many.
            headers={
                "RateLimit-Policy": f'"tasks";q={rate.burst};w={math.ceil(rate.burst / rate.per_second)}',
                "RateLimit": f'"tasks";r=0;t={wait}',
            },
        )
