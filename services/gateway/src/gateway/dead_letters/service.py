"""Dead letters as operators see them: which there are, what they hold, and bringing them back or deleting them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, NamedTuple

from celery_leases.admin import AsyncAdmin, Position, UnknownDeadLetterError
from offload_contracts.contract import QUEUE_NAME
from offload_core import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import redis.asyncio

    from celery_leases.admin import DeadLetter
    from offload_core.keys import Step
    from offload_core.task_store import TaskStore

# One answer of the list, and one bulk redrive, at most.
LIMIT = 1_000


class Name(NamedTuple):
    """Which dead letter: written ``queue:message key``. A queue's name holds no colon, a message key holds two."""

    queue: str
    message_key: str

    def __str__(self) -> str:
        """Return it as the API writes it."""
        return f"{self.queue}:{self.message_key}"

    @classmethod
    def of(cls, text: str) -> Name | None:
        """Return the name that a text is, or None."""
        queue, colon, message_key = text.partition(":")
        return cls(queue, message_key) if colon and message_key and QUEUE_NAME.fullmatch(queue) else None


def cursor_of(position: Position) -> str:
    """Return a place in the list as the API writes it."""
    name = Name(position.queue, position.message_key)
    return base64.urlsafe_b64encode(f"{position.died_at_ms}:{name}".encode()).decode().rstrip("=")


def position_of(cursor: str) -> Position | None:
    """Return the place that a cursor names, or None."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        died_at, _, text = base64.b64decode(padded, b"-_", validate=True).decode().partition(":")
        name = Name.of(text)
        return Position(int(died_at), *name) if name else None
    except ValueError:
        return None


class DeadLetters:
    """The dead letters of all queues."""

    def __init__(self, client: redis.asyncio.Redis, broker_prefix: str, tasks: TaskStore) -> None:
        """Take the client, what the broker's keys begin with, and the store of the tasks that the letters are of."""
        self._client = client
        self._tasks = tasks
        self._admin = AsyncAdmin(client, broker_prefix)

    async def newest(self, queues: Iterable[str], limit: int, after: Position | None = None) -> list[DeadLetter]:
        """Return dead letters, the newest first; from `after` on where that is given.

        Raises:
            redis.RedisError: when Redis cannot be reached.

        """
        return await self._admin.dead_letters(queues, limit, after)

    async def ids_of_newest(self, queue: str, limit: int, reason: str | None) -> list[str]:
        """Return the ids of the newest of a queue; only of those that died of `reason`, where it is given."""
        found: list[str] = []
        after = None
        while len(found) < limit:
            letters = await self.newest([queue], LIMIT, after)
            found += [str(name_of(one)) for one in letters if reason in {None, one.reason}]
            if len(letters) < LIMIT:
                break
            after = letters[-1].position
        return found[:limit]

    async def one(self, name: Name) -> DeadLetter | None:
        """Return one dead letter, or None."""
        try:
            return await self._admin.dead_letter(*name)
        except UnknownDeadLetterError:
            return None

    async def steps(self, letters: Sequence[DeadLetter]) -> list[Step | None]:
        """Return for each letter which step of which task it is; None for what is no task's."""
        async with self._client.pipeline(transaction=False) as pipe:
            for letter in letters:
                pipe.get(keys.step(self._tasks.prefix, letter.task_id or ""))
            found = await pipe.execute()
        return [
            keys.adopted_step(one.task_id, of_chain) if one.task_id else None
            for one, of_chain in zip(letters, found, strict=True)
        ]

    async def redrive(self, name: Name) -> str:
        """Bring one back; returns ``redriven``, or the code of why it was not."""
        outcome: str = (await self._tasks.redrive(*name).run_async(self._client)).decode()
        return outcome

    async def discard(self, name: Name) -> str:
        """Delete one; returns ``deleted``, or the code of why it was not."""
        outcome: str = (await self._tasks.discard(*name).run_async(self._client)).decode()
        return outcome


def name_of(letter: DeadLetter) -> Name:
    """Return a letter's name."""
    return Name(letter.queue, letter.message_key)
