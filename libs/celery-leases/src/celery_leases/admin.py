"""Looking at queues and dead letters; redriving and deleting them: `Admin`, and `AsyncAdmin` for an async client.

Each question is one generator, for both: all commands of one ``yield`` go to Redis in one round trip.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import batched
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from celery_leases import keys, scripts

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    import redis
    import redis.asyncio

    # A question yields what is to be called on a pipeline, and is sent what came back.
    type Question[Answer] = Generator[Sequence[methodcaller], list[Any], Answer]

# The oldest message is looked for among so many of each priority: one that was withdrawn leaves its key behind.
_LOOKED_AT: Final = 10


@dataclass(frozen=True, slots=True)
class Pause:
    """That nothing of a queue is delivered: why, since when, and until when (None: until it is resumed)."""

    note: str
    since_ms: int
    until_ms: int | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be delivered of a queue; None for no limit."""

    # Messages that run at once.
    max_running: int | None = None
    # Deliveries that begin, in the long run. What is unused of one second is saved, and one delivery at least.
    rate_per_second: float | None = None

    def __post_init__(self) -> None:
        """Refuse what would deliver nothing: that is a pause.

        Raises:
            ValueError: for a limit that is not more than 0.

        """
        if any(limit is not None and not limit > 0 for limit in (self.max_running, self.rate_per_second)):
            raise ValueError("a limit must be more than 0")


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages of a queue are where. A message that was withdrawn is nowhere."""

    queue: str
    waiting: int
    running: int
    delayed: int
    dead: int
    # The envelope of the message that a worker takes next, as far as it can be told.
    next_message: dict[str, Any] | None = field(default=None, compare=False)
    pause: Pause | None = None
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Death:
    """An earlier end of a message that was redriven since."""

    reason: str
    deliveries: int
    owner: str
    died_at_ms: int
    redriven_at_ms: int


class Position(NamedTuple):
    """Where a dead letter stands in the list of all. The newest come first."""

    died_at_ms: int
    queue: str
    message_key: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up."""

    queue: str
    message_key: str
    reason: str
    deliveries: int
    owner: str
    died_at_ms: int
    reported: bool
    message: dict[str, Any]
    # The oldest first.
    earlier: tuple[Death, ...] = ()

    @classmethod
    def of(cls, queue: str, message_key: str, raw: bytes, *, reported: bool) -> DeadLetter:
        """Return the dead letter that Redis holds as `raw`."""
        fields = json.loads(raw.decode("utf-8", "replace"))
        return cls(
            queue=queue,
            message_key=message_key,
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

    @property
    def position(self) -> Position:
        """Where it stands in the list."""
        return Position(self.died_at_ms, self.queue, self.message_key)


class UnknownDeadLetterError(LookupError):
    """There is no dead letter of this name in this queue."""

    def __init__(self, queue: str, message_key: str) -> None:
        """Say which."""
        super().__init__(f"queue {queue!r} has no dead letter {message_key!r}")


class Admin:
    """The queues of one key prefix."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        """Take the client and the broker's key prefix."""
        self._client = client
        self._prefix = prefix

    def queues(self) -> list[str]:
        """Return the names of all queues that hold anything, sorted."""
        return self._ask(_queues(self._prefix))

    def depths(self, queues: Iterable[str]) -> list[Depth]:
        """Return how many messages of each queue are where. Messages may move while they are counted."""
        return self._ask(_depths(self._prefix, tuple(queues)))

    def depth(self, queue: str) -> Depth:
        """Return how many messages of a queue are where."""
        return self.depths([queue])[0]

    def dead_message_keys(self, queues: Iterable[str]) -> list[str]:
        """Return the message keys of all dead letters of these queues, the oldest of each first."""
        return self._ask(_dead_message_keys(self._prefix, tuple(queues)))

    def dead_letters(self, queues: Iterable[str], limit: int = 100, after: Position | None = None) -> list[DeadLetter]:
        """Return the newest dead letters of these queues, newest first; those behind `after` where that is given."""
        return self._ask(_dead_letters(self._prefix, tuple(queues), limit, after))

    def dead_letter(self, queue: str, message_key: str) -> DeadLetter:
        """Return one dead letter.

        Raises:
            UnknownDeadLetterError: when there is none of this message key.

        """
        return self._ask(_dead_letter(self._prefix, queue, message_key))

    def redrive(self, queue: str, message_key: str) -> None:
        """Put a dead letter back to the tail of its queue, blamed for nothing; its history stays until it ends well.

        Raises:
            UnknownDeadLetterError: when there is none of this message key.

        """
        if scripts.REDRIVE(self._client, [], [self._prefix, queue, message_key]) < 0:
            raise UnknownDeadLetterError(queue, message_key)

    def discard(self, queue: str, message_key: str) -> None:
        """Delete a dead letter for good.

        Raises:
            UnknownDeadLetterError: when there is none of this message key.

        """
        if not scripts.DISCARD(self._client, [], [self._prefix, queue, message_key]):
            raise UnknownDeadLetterError(queue, message_key)

    def pause(self, queue: str, note: str = "", until_ms: int | None = None) -> bool:
        """Deliver nothing of a queue until it is resumed, or until a time; returns whether it was not paused before.

        What runs goes on; what is published waits. Workers of a release before 0.3 do not know of it.
        """
        return bool(scripts.PAUSE(self._client, [], [self._prefix, queue, note, until_ms or 0]))

    def resume(self, queue: str) -> bool:
        """Deliver again what waits in a queue; returns whether it was paused."""
        return bool(scripts.RESUME(self._client, [], [self._prefix, queue]))

    def limit(self, queue: str, **limits: float | None) -> None:
        """Change limits of a queue, named as in `Limits`: None for none. What is not named stays as it is.

        Raises:
            ValueError: for a limit that is not more than 0.

        """
        scripts.LIMIT(self._client, [], [self._prefix, queue, _changes(limits)])

    def _ask[Answer](self, question: Question[Answer]) -> Answer:
        try:
            commands = next(question)
            while True:
                with self._client.pipeline(transaction=False) as pipe:
                    for command in commands:
                        command(pipe)
                    answers = pipe.execute()
                commands = question.send(answers)
        except StopIteration as end:
            answer: Answer = end.value
            return answer


class AsyncAdmin:
    """The same for an asynchronous client."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str) -> None:
        """Take the client and the broker's key prefix."""
        self._client = client
        self._prefix = prefix

    async def queues(self) -> list[str]:
        """As `Admin.queues`."""
        return await self._ask(_queues(self._prefix))

    async def depths(self, queues: Iterable[str]) -> list[Depth]:
        """As `Admin.depths`."""
        return await self._ask(_depths(self._prefix, tuple(queues)))

    async def dead_message_keys(self, queues: Iterable[str]) -> list[str]:
        """As `Admin.dead_message_keys`."""
        return await self._ask(_dead_message_keys(self._prefix, tuple(queues)))

    async def dead_letters(
        self, queues: Iterable[str], limit: int = 100, after: Position | None = None
    ) -> list[DeadLetter]:
        """As `Admin.dead_letters`."""
        return await self._ask(_dead_letters(self._prefix, tuple(queues), limit, after))

    async def dead_letter(self, queue: str, message_key: str) -> DeadLetter:
        """As `Admin.dead_letter`."""
        return await self._ask(_dead_letter(self._prefix, queue, message_key))

    async def redrive(self, queue: str, message_key: str) -> None:
        """As `Admin.redrive`."""
        if await scripts.REDRIVE.run_async(self._client, [], [self._prefix, queue, message_key]) < 0:
            raise UnknownDeadLetterError(queue, message_key)

    async def discard(self, queue: str, message_key: str) -> None:
        """As `Admin.discard`."""
        if not await scripts.DISCARD.run_async(self._client, [], [self._prefix, queue, message_key]):
            raise UnknownDeadLetterError(queue, message_key)

    async def limit(self, queue: str, **limits: float | None) -> None:
        """As `Admin.limit`."""
        await scripts.LIMIT.run_async(self._client, [], [self._prefix, queue, _changes(limits)])

    async def _ask[Answer](self, question: Question[Answer]) -> Answer:
        try:
            commands = next(question)
            while True:
                async with self._client.pipeline(transaction=False) as pipe:
                    for command in commands:
                        command(pipe)
                    answers = await pipe.execute()
                commands = question.send(answers)
        except StopIteration as end:
            answer: Answer = end.value
            return answer


def _changes(limits: Mapping[str, float | None]) -> str:
    """Return changes of limits as the script reads them."""
    Limits(**limits)  # type: ignore[arg-type]  # the names are checked
    return json.dumps({name: False if limit is None else limit for name, limit in limits.items()})


def decode(message: str) -> dict[str, Any]:
    """Return the message's envelope; what is not an envelope at all stands under ``raw``, beside empty headers."""
    try:
        envelope = json.loads(message)
    except ValueError:
        envelope = None
    if not isinstance(envelope, dict):
        return {"headers": {}, "properties": {}, "body": "", "raw": message}
    return envelope


def _queues(prefix: str) -> Question[list[str]]:
    (names,) = yield [methodcaller("smembers", keys.registry(prefix))]
    return sorted(name.decode() for name in names)


def _depths(prefix: str, queues: Sequence[str]) -> Question[list[Depth]]:
    if not queues:
        return []
    found = yield [
        command
        for queue in queues
        for command in (
            methodcaller("hlen", keys.key(prefix, queue, keys.LIVE)),
            methodcaller("zcard", keys.key(prefix, queue, keys.LEASES)),
            methodcaller("zcard", keys.key(prefix, queue, keys.DELAYED)),
            methodcaller("hlen", keys.key(prefix, queue, keys.DEAD)),
            methodcaller("hmget", keys.key(prefix, queue, keys.PAUSE), "note", "since_ms", "until_ms"),
            methodcaller("hmget", keys.key(prefix, queue, keys.LIMITS), "max_running", "rate_per_second"),
            *(methodcaller("lrange", keys.key(prefix, queue, part), -_LOOKED_AT, -1) for part in keys.WAITING_LISTS),
        )
    ]
    rows = list(batched(found, 6 + len(keys.WAITING_LISTS), strict=True))
    # A pop takes from the lists in their order, and from their right ends.
    message_keys = [[message_key for waiting in row[6:] for message_key in reversed(waiting)] for row in rows]
    messages = yield [
        methodcaller("hmget", keys.key(prefix, queue, keys.LIVE), those or [""])
        for queue, those in zip(queues, message_keys, strict=True)
    ]
    return [
        Depth(
            queue,
            max(live - running, 0),
            running,
            delayed,
            dead,
            next((decode(text.decode("utf-8", "replace")) for text in texts if text is not None), None),
            _pause(*paused),
            _limits(*limits),
        )
        for queue, (live, running, delayed, dead, paused, limits, *_), texts in zip(queues, rows, messages, strict=True)
    ]


def _pause(note: bytes | None, since_ms: bytes | None, until_ms: bytes | None) -> Pause | None:
    if since_ms is None:
        return None
    return Pause((note or b"").decode("utf-8", "replace"), int(since_ms), int(until_ms or 0) or None)


def _limits(max_running: bytes | None, rate_per_second: bytes | None) -> Limits:
    return Limits(int(max_running) if max_running else None, float(rate_per_second) if rate_per_second else None)


def _dead_message_keys(prefix: str, queues: Sequence[str]) -> Question[list[str]]:
    found = yield [methodcaller("zrange", keys.key(prefix, queue, keys.DEAD_AT), 0, -1) for queue in queues]
    return [message_key.decode() for message_keys in found for message_key in message_keys]


def _dead_letters(prefix: str, queues: Sequence[str], limit: int, after: Position | None) -> Question[list[DeadLetter]]:
    positions: list[Position] = []
    for queue in queues:
        positions += yield from _positions(prefix, queue, limit, after)
    positions.sort(reverse=True)
    return (yield from _read(prefix, positions[:limit]))


def _positions(prefix: str, queue: str, limit: int, after: Position | None) -> Question[list[Position]]:
    """Return the newest of one queue. Those of one millisecond are read on until enough lie behind `after`."""
    newest = after.died_at_ms if after else "+inf"
    found: list[Position] = []
    start = 0
    while len(found) < limit:
        (page,) = yield [
            methodcaller(
                "zrevrangebyscore", keys.key(prefix, queue, keys.DEAD_AT), newest, "-inf",
                start=start, num=limit, withscores=True,
            )
        ]  # fmt: skip
        positions = [Position(int(score), queue, message_key.decode()) for message_key, score in page]
        found += [position for position in positions if after is None or position < after]
        if len(positions) < limit:
            break
        start += limit
    return found


def _dead_letter(prefix: str, queue: str, message_key: str) -> Question[DeadLetter]:
    found = yield from _read(prefix, [Position(0, queue, message_key)])
    if not found:
        raise UnknownDeadLetterError(queue, message_key)
    return found[0]


def _read(prefix: str, positions: Sequence[Position]) -> Question[list[DeadLetter]]:
    """Return the letters that are still there."""
    if not positions:
        return []
    found = yield [
        command
        for _, queue, message_key in positions
        for command in (
            methodcaller("hget", keys.key(prefix, queue, keys.DEAD), message_key),
            methodcaller("zscore", keys.key(prefix, queue, keys.UNREPORTED), message_key),
        )
    ]
    return [
        DeadLetter.of(queue, message_key, raw, reported=unreported is None)
        for (_, queue, message_key), (raw, unreported) in zip(positions, batched(found, 2, strict=True), strict=True)
        if raw is not None
    ]
