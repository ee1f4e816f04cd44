"""Redis as it was a second ago: looked at outside of the accept path."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from redis.exceptions import RedisError, ResponseError

from offload_core.redis_client import cause

if TYPE_CHECKING:
    import redis.asyncio

    from gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

SAMPLE_SECONDS = 1.0


class RedisWatch:
    """Whether Redis answers, how full it is, what its clock says, and what of its settings weakens the promises."""

    def __init__(self, client: redis.asyncio.Redis, settings: GatewaySettings) -> None:
        """Take the client; nothing is asked before `sample`."""
        self._client = client
        self._settings = settings
        # How far Redis's clock is ahead of this machine's.
        self._clock_ahead = timedelta()
        # These two the accept path sets too, where it learns of it first.
        self.is_up = True
        self.memory_share = 0.0
        self.warnings: tuple[str, ...] = ()

    def now(self) -> datetime:
        """Return the time by Redis's clock, by which what is delayed falls due."""
        return datetime.now(UTC) + self._clock_ahead

    async def sample(self) -> None:
        """Look at Redis."""
        try:
            seconds, microseconds = await self._client.time()
            self._clock_ahead = datetime.fromtimestamp(seconds + microseconds / 1e6, UTC) - datetime.now(UTC)
            memory = await self._client.info("memory")
        except RedisError as error:
            if self.is_up:
                why = cause(error)
                logger.exception("Redis does not serve (%s): posts get 503 until it does", why)
            self.is_up = False
            return
        if not self.is_up:
            logger.info("Redis answers again")
        limit = int(memory.get("maxmemory", 0)) or self._settings.memory_limit_bytes
        self.memory_share = int(memory["used_memory"]) / limit if limit else 0.0
        self.warnings = await self._warnings()
        self.is_up = True

    async def _warnings(self) -> tuple[str, ...]:
        """Name what of Redis's own settings would break the promise that nothing accepted is lost."""
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
        try:
            found = {name: (await self._client.config_get(name)).get(name) for name in wanted}
        except ResponseError:
            return ("Redis does not show its settings: AOF, appendfsync always and noeviction must be set there",)
        except RedisError:
            return ()
        different = [f"{name} is {found[name]}, not {value}" for name, value in wanted.items() if found[name] != value]
        for warning in different:
            if warning not in self.warnings:
                logger.warning("accepted tasks may be lost: Redis's %s", warning)
        return tuple(different)
