"""Dead letters as operators see them: which there are, what they hold, and bringing them back or deleting them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_leases import keys as broker_keys
from celery_leases.admin import DeadLetter
from offload_contracts import Queue
from offload_core import keys, records

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis.asyncio

    from gateway.settings import GatewaySettings

# One answer of the list, and one bulk redrive, at most.
MOST = 1_000


class Name(NamedTuple):
    """Which dead letter: written ``queue:tag``. A queue's name holds no colon, a tag holds two."""

    queue: str
    tag: str

    def __str__(self) -> str:
        """Return it as the API writes it."""
        return f"{self.queue}:{self.tag}"

    @classmethod
    def of(cls, text: str) -> Name | None:
        """Return the name that a text is, or None."""
        queue, colon, tag = text.partition(":")
        return cls(queue, tag) if colon and tag and queue in set(Queue) else None


class Place(NamedTuple):
    """Where a list goes on: after this letter. The newest come first."""

    died_at_ms: int
    name: Name

    def __str__(self) -> str:
        """Return it as a cursor."""
        return base64.urlsafe_b64encode(f"{self.died_at_ms}:{self.name}".encode()).decode().rstrip("=")

    @classmethod
    def of(cls, cursor: str) -> Place | None:
        """Return the place that a cursor names, or None."""
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            died_at, _, name = base64.b64decode(padded, b"-_", validate=True).decode().partition(":")
            found = Name.of(name)
            return cls(int(died_at), found) if found else None
        except ValueError:
            return None


class DeadLetters:
    """The dead letters of all queues."""

    def __init__(self, client: redis.asyncio.Redis, settings: GatewaySettings) -> None:
        """Take the client and what the keys are made of."""
        self._client = client
        self._settings = settings

    async def newest(self, queues: Iterable[str], most: int, after: Place | None = None) -> list[DeadLetter]:
        """Return dead letters, the newest first; from `after` on where that is given.

        Raises:
            redis.RedisError: when Redis cannot be reached.

        """
        places = [place for queue in queues for place in await self._places(queue, most, after)]
        places.sort(reverse=True)
        return await self._read([place.name for place in places[:most]])

    async def one(self, name: Name) -> DeadLetter | None:
        """Return one dead letter, or None."""
        return next(iter(await self._read([name])), None)

    async def redrive(self, name: Name) -> str:
        """Bring one back; returns ``redriven``, or the code of why it was not."""
        step = keys.step_of(_celery_id(name))
        settings = self._settings
        call = records.REDRIVE(
            settings.key_prefix, settings.broker_prefix, name.queue, name.tag, step.task_id, step.number
        )
        outcome: str = (await call.run_async(self._client)).decode()
        return outcome

    async def discard(self, name: Name) -> str:
        """Delete one; returns ``deleted``, or the code of why it was not."""
        settings = self._settings
        task_id, keep_ms = keys.step_of(_celery_id(name)).task_id, settings.result_expires_seconds * 1000
        call = records.DISCARD(settings.key_prefix, settings.broker_prefix, name.queue, name.tag, task_id, keep_ms)
        outcome: str = (await call.run_async(self._client)).decode()
        return outcome

    async def _places(self, queue: str, most: int, after: Place | None) -> list[Place]:
        """Return the newest of one queue; those that died in one millisecond are read on until enough lie after."""
        key = self._key(queue, broker_keys.DEAD_AT)
        newest = after.died_at_ms if after else "+inf"
        found: list[Place] = []
        start = 0
        while len(found) < most:
            page: list[Any] = await self._client.zrevrangebyscore(
                key, newest, "-inf", start=start, num=most, withscores=True
            )
            places = [Place(int(score), Name(queue, tag.decode())) for tag, score in page]
            found += [place for place in places if after is None or place < after]
            if len(page) < most:
                break
            start += most
        return found

    async def _read(self, names: list[Name]) -> list[DeadLetter]:
        async with self._client.pipeline(transaction=False) as pipe:
            for queue, tag in names:
                pipe.hget(self._key(queue, broker_keys.DEAD), tag)
                pipe.zscore(self._key(queue, broker_keys.UNREPORTED), tag)
            found = await pipe.execute()
        return [
            DeadLetter.of(queue, tag, raw, reported=unreported is None)
            for (queue, tag), raw, unreported in zip(names, found[::2], found[1::2], strict=True)
            if raw is not None
        ]

    def _key(self, queue: str, part: str) -> str:
        return broker_keys.key(self._settings.broker_prefix, queue, part)


def name_of(letter: DeadLetter) -> Name:
    """Return a letter's name."""
    return Name(letter.queue, letter.tag)


def place_of(letter: DeadLetter) -> Place:
    """Return where a letter stands in the list."""
    return Place(letter.died_at_ms, name_of(letter))


def _celery_id(name: Name) -> str:
    """Return the step's id, which is the tag without its attempt."""
    return name.tag.rsplit(":", 2)[0]
