"""Queues are paused and resumed, and who asked for it is told by events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offload_core import keys
from offload_core.task_store import TaskScript

if TYPE_CHECKING:
    import redis

    from offload_core.task_store import Call, TaskStore

_PAUSE = TaskScript("offload_core/lua/queue_pause.lua")
_RESUME = TaskScript("offload_core/lua/queue_resume.lua")


def pause(store: TaskStore, owner: str, queue: str, *, note: str, until_ms: int | None) -> Call:
    """Let nothing of a queue be delivered until it is resumed, or until a time (ms). Answers 1 if it was not paused."""
    return _PAUSE.of(
        prefix=store.prefix,
        broker_prefix=store.broker_prefix,
        owner=owner,
        queue=queue,
        note=note,
        until_ms=until_ms or 0,
    )


def resume(store: TaskStore, owner: str | None, queue: str) -> Call:
    """Let a queue's messages be delivered again: at once, or, without an owner, if the time of its pause has passed.

    Answers 1 if it was paused.
    """
    return _RESUME.of(prefix=store.prefix, broker_prefix=store.broker_prefix, owner=owner, queue=queue)


def due(store: TaskStore, client: redis.Redis, now_ms: int) -> list[Call]:
    """Return what resumes the queues whose pause has had its time: the broker has ended it, and nobody was told.

    Raises:
        redis.RedisError: when Redis cannot be reached.

    """
    paused: Any = client.hgetall(keys.paused_queues(store.prefix))
    ends = {queue.decode(): int(value.partition(b" ")[0]) for queue, value in paused.items()}
    return [resume(store, None, queue) for queue, until_ms in ends.items() if 0 < until_ms <= now_ms]
