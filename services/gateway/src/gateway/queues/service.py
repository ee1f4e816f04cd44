"""How the queues stand, as the broker tells."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_leases.admin import AsyncAdmin
from offload_core.messages import PUBLISHED_AT

if TYPE_CHECKING:
    import redis.asyncio

    from gateway.task_types.service import Catalogue


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue at one moment."""

    name: str
    waiting: int
    running: int
    delayed: int
    dead: int
    # How long the message that is next has waited; 0 where none waits.
    oldest_age_seconds: float


async def names(client: redis.asyncio.Redis, prefix: str, catalogue: Catalogue) -> list[str]:
    """Return the queues of the built-in fleets, of the task types that are registered, and any that hold something.

    Raises:
        redis.RedisError: when Redis cannot be reached.

    """
    holding = await AsyncAdmin(client, prefix).queues()
    return list(dict.fromkeys([*catalogue.queues, *sorted(holding)]))


async def read(client: redis.asyncio.Redis, prefix: str, catalogue: Catalogue) -> list[QueueState]:
    """Return the state of every queue, in three round trips.

    Raises:
        redis.RedisError: when Redis cannot be reached.

    """
    depths = await AsyncAdmin(client, prefix).depths(await names(client, prefix, catalogue))
    return [
        QueueState(depth.queue, depth.waiting, depth.running, depth.delayed, depth.dead, _age(depth.next_message))
        for depth in depths
    ]


def _age(message: dict[str, Any] | None) -> float:
    """Return the seconds since a message was published; 0 for none, or for one that does not say."""
    try:
        published_at = float(message["headers"][PUBLISHED_AT]) if message else time.time()
    except (ValueError, KeyError, TypeError):
        return 0.0
    return max(round(time.time() - published_at, 3), 0.0)
