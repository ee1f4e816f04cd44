"""How the queues stand, as the broker tells; pausing and limiting them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from celery_leases.admin import AsyncAdmin
from gateway.problems import Problem
from gateway.timestamps import ahead, rfc3339
from offload_core import queues
from offload_core.messages import PUBLISHED_AT

if TYPE_CHECKING:
    import redis.asyncio

    from celery_leases.admin import Depth, Limits, Pause
    from gateway.dependencies import Dependencies
    from gateway.queues.schemas import LimitsChange, NewPause
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
    pause: Pause | None
    limits: Limits

    def view(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        pause = self.pause and {
            "note": self.pause.note,
            "since": rfc3339(self.pause.since_ms),
            "until": rfc3339(self.pause.until_ms),
        }
        return {
            "name": self.name,
            "waiting": self.waiting,
            "running": self.running,
            "delayed": self.delayed,
            "dead": self.dead,
            "oldest_age_seconds": self.oldest_age_seconds,
            "paused": pause,
            "max_running": self.limits.max_running,
            "rate": self.limits.rate_per_second,
        }


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
    return [_state(depth) for depth in depths]


async def find(deps: Dependencies, name: str) -> QueueState:
    """Return the state of one queue.

    Raises:
        Problem: 404 ``queue.not_found``.

    """
    await check(deps, name)
    (depth,) = await AsyncAdmin(deps.redis, deps.settings.broker_prefix).depths([name])
    return _state(depth)


async def check(deps: Dependencies, name: str) -> None:
    """Refuse the name of a queue that there is not.

    Raises:
        Problem: 404 ``queue.not_found``.

    """
    if name not in await names(deps.redis, deps.settings.broker_prefix, deps.catalogue):
        raise Problem(HTTPStatus.NOT_FOUND, "queue.not_found", "there is no such queue")


async def pause(deps: Dependencies, owner: str, name: str, asked: NewPause) -> None:
    """Pause a queue, or change why and until when it is paused.

    Raises:
        Problem: 422 ``request.invalid`` for an end that is not ahead.

    """
    until_ms = ahead("until", asked.until)
    await queues.pause(deps.tasks, owner, name, note=asked.note, until_ms=until_ms).run_async(deps.redis)


async def resume(deps: Dependencies, owner: str, name: str) -> None:
    """Resume a queue, if it is paused."""
    await queues.resume(deps.tasks, owner, name).run_async(deps.redis)


async def limit(deps: Dependencies, name: str, asked: LimitsChange) -> None:
    """Change the limits of a queue."""
    names = {"max_running": "max_running", "rate": "rate_per_second"}
    changes = {names[field]: value for field, value in asked.model_dump(exclude_unset=True).items()}
    await AsyncAdmin(deps.redis, deps.settings.broker_prefix).limit(name, **changes)


def _state(depth: Depth) -> QueueState:
    return QueueState(
        name=depth.queue,
        waiting=depth.waiting,
        running=depth.running,
        delayed=depth.delayed,
        dead=depth.dead,
        oldest_age_seconds=_age(depth.next_message),
        pause=depth.pause,
        limits=depth.limits,
    )


def _age(message: dict[str, Any] | None) -> float:
    """Return the seconds since a message was published; 0 for none, or for one that does not say."""
    try:
        published_at = float(message["headers"][PUBLISHED_AT]) if message else time.time()
    except (ValueError, KeyError, TypeError):
        return 0.0
    return max(round(time.time() - published_at, 3), 0.0)
