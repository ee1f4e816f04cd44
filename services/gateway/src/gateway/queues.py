"""How the queues stand, read from the broker's own keys."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_leases import keys
from offload_contracts import Queue
from offload_core.messages import PUBLISHED_AT

if TYPE_CHECKING:
    import redis.asyncio


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


async def read(client: redis.asyncio.Redis, prefix: str) -> list[QueueState]:
    """Return the state of every queue, in two round trips.

    Raises:
        redis.RedisError: when Redis cannot be reached.

    """
    async with client.pipeline(transaction=False) as pipe:
        for queue in Queue:
            pipe.hlen(keys.key(prefix, queue, keys.LIVE))
            pipe.zcard(keys.key(prefix, queue, keys.LEASES))
            pipe.zcard(keys.key(prefix, queue, keys.DELAYED))
            pipe.hlen(keys.key(prefix, queue, keys.DEAD))
            pipe.lindex(keys.key(prefix, queue, keys.WAITING), -1)
        found = await pipe.execute()
    counts = [found[position : position + 5] for position in range(0, len(found), 5)]
    async with client.pipeline(transaction=False) as pipe:
        for queue, (*_, tag) in zip(Queue, counts, strict=True):
            pipe.hget(keys.key(prefix, queue, keys.LIVE), tag or "")
        oldest = await pipe.execute()
    return [
        QueueState(queue.value, max(live - running, 0), running, delayed, dead, _age(message))
        for queue, (live, running, delayed, dead, _), message in zip(Queue, counts, oldest, strict=True)
    ]


def _age(message: bytes | None) -> float:
    """Return the seconds since a message was published; 0 for none, or for one that does not say."""
    if message is None:
        return 0.0
    try:
        published_at = float(json.loads(message)["headers"][PUBLISHED_AT])
    except (ValueError, KeyError, TypeError):
        return 0.0
    return max(round(time.time() - published_at, 3), 0.0)
