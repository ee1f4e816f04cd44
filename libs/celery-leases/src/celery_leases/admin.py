"""Looking at queues and dead letters, and redriving them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_leases import keys, scripts
from celery_leases.sweep import decode

if TYPE_CHECKING:
    import redis


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages of a queue are where."""

    queue: str
    waiting: int
    running: int
    delayed: int
    dead: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up."""

    queue: str
    tag: str
    reason: str
    deliveries: int
    owner: str
    died_at_ms: int
    reported: bool
    message: dict[str, Any]

    @property
    def task_id(self) -> str | None:
        """The id of the task, where the message has one."""
        task_id: str | None = self.message.get("headers", {}).get("id")
        return task_id


class UnknownDeadLetterError(LookupError):
    """There is no dead letter of this name in this queue."""


def queues(client: redis.Redis, prefix: str) -> list[str]:
    """Return the names of all queues that have held a message, sorted."""
    names: set[Any] = client.smembers(keys.registry(prefix))
    return sorted(name.decode() for name in names)


def depth(client: redis.Redis, prefix: str, queue: str) -> Depth:
    """Return a queue's depth, read in one round trip."""
    with client.pipeline(transaction=True) as pipe:
        pipe.hlen(keys.key(prefix, queue, keys.LIVE))
        pipe.zcard(keys.key(prefix, queue, keys.LEASES))
        pipe.zcard(keys.key(prefix, queue, keys.DELAYED))
        pipe.hlen(keys.key(prefix, queue, keys.DEAD))
        live, running, delayed, dead = pipe.execute()
    return Depth(queue, live - running, running, delayed, dead)


def dead_letters(client: redis.Redis, prefix: str, queue: str, most: int = 100) -> list[DeadLetter]:
    """Return the queue's newest dead letters, newest first."""
    tags: list[Any] = client.zrevrange(keys.key(prefix, queue, keys.DEAD_AT), 0, most - 1)
    found = []
    for name in tags:
        try:
            found.append(dead_letter(client, prefix, queue, name.decode()))
        except UnknownDeadLetterError:
            continue  # redriven or expired in the meantime
    return found


def dead_letter(client: redis.Redis, prefix: str, queue: str, tag: str) -> DeadLetter:
    """Return one dead letter.

    Raises:
        UnknownDeadLetterError: when there is none of this tag.

    """
    raw: Any = client.hget(keys.key(prefix, queue, keys.DEAD), tag)
    if raw is None:
        message = f"queue {queue!r} has no dead letter {tag!r}"
        raise UnknownDeadLetterError(message)
    fields = json.loads(raw.decode("utf-8", "replace"))
    return DeadLetter(
        queue=queue,
        tag=tag,
        reason=fields["reason"],
        deliveries=int(fields["deliveries"]),
        owner=fields["owner"],
        died_at_ms=int(fields["died_at_ms"]),
        reported=client.zscore(keys.key(prefix, queue, keys.UNREPORTED), tag) is None,
        message=decode(fields["message"]),
    )


def redrive(client: redis.Redis, prefix: str, queue: str, tag: str) -> None:
    """Put a dead letter back to the tail of its queue, with no deliveries counted.

    Raises:
        UnknownDeadLetterError: when there is none of this tag.

    """
    if not scripts.REDRIVE(client, [], [prefix, queue, tag]):
        message = f"queue {queue!r} has no dead letter {tag!r}"
        raise UnknownDeadLetterError(message)
