"""Looking at queues and dead letters; redriving and deleting them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_leases import keys, scripts

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
class Death:
    """An earlier end of a message that was redriven since."""

    reason: str
    deliveries: int
    owner: str
    died_at_ms: int
    redriven_at_ms: int


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
    # The oldest first.
    earlier: tuple[Death, ...] = ()

    @classmethod
    def of(cls, queue: str, tag: str, raw: bytes, *, reported: bool) -> DeadLetter:
        """Return the dead letter that Redis holds as `raw`."""
        fields = json.loads(raw.decode("utf-8", "replace"))
        return cls(
            queue=queue,
            tag=tag,
            reason=fields["reason"],
            deliveries=int(fields["deliveries"]),
            owner=fields["owner"],
            died_at_ms=int(fields["died_at_ms"]),
            reported=reported,
            message=decode(fields["message"]),
            earlier=tuple(
                Death(
                    one["reason"],
                    int(one["deliveries"]),
                    one["owner"],
                    int(one["died_at_ms"]),
                    int(one["redriven_at_ms"]),
                )
                for one in fields.get("earlier", ())
            ),
        )

    @property
    def task_id(self) -> str | None:
        """The id of the task, where the message has one."""
        task_id: str | None = self.message.get("headers", {}).get("id")
        return task_id


class UnknownDeadLetterError(LookupError):
    """There is no dead letter of this name in this queue."""


def queues(client: redis.Redis, prefix: str) -> list[str]:
    """Return the names of all queues that hold anything, sorted."""
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


def dead_tags(client: redis.Redis, prefix: str, queue: str) -> list[str]:
    """Return the tags of all dead letters of a queue, the oldest first."""
    tags: list[Any] = client.zrange(keys.key(prefix, queue, keys.DEAD_AT), 0, -1)
    return [tag.decode() for tag in tags]


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
        raise _unknown(queue, tag)
    reported = client.zscore(keys.key(prefix, queue, keys.UNREPORTED), tag) is None
    return DeadLetter.of(queue, tag, raw, reported=reported)


def redrive(client: redis.Redis, prefix: str, queue: str, tag: str) -> None:
    """Put a dead letter back to the tail of its queue, blamed for nothing; its history stays until it ends well.

    Raises:
        UnknownDeadLetterError: when there is none of this tag.

    """
    if scripts.REDRIVE(client, [], [prefix, queue, tag]) < 0:
        raise _unknown(queue, tag)


def discard(client: redis.Redis, prefix: str, queue: str, tag: str) -> None:
    """Delete a dead letter for good.

    Raises:
        UnknownDeadLetterError: when there is none of this tag.

    """
    if not scripts.DISCARD(client, [], [prefix, queue, tag]):
        raise _unknown(queue, tag)


def decode(message: str) -> dict[str, Any]:
    """Return the message's envelope; what is not an envelope at all stands under ``raw``, beside empty headers."""
    try:
        envelope = json.loads(message)
    except ValueError:
        envelope = None
    if not isinstance(envelope, dict):
        return {"headers": {}, "properties": {}, "body": "", "raw": message}
    return envelope


def _unknown(queue: str, tag: str) -> UnknownDeadLetterError:
    return UnknownDeadLetterError(f"queue {queue!r} has no dead letter {tag!r}")
