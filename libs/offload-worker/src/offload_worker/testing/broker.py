"""The broker in memory: queues with leases, as `celery_leases` has them in Redis. Times are milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Popped(NamedTuple):
    """A message that was taken: the `delivery` says which time it is."""

    queue: str
    message_key: str
    message: str
    delivery: int


@dataclass(slots=True)
class DeadLetter:
    """A message that was given up. `reported` says whether its task knows of it."""

    message: str
    reason: str
    deliveries: int
    reported: bool = False


@dataclass(slots=True)
class _Queue:
    # What waits, the next one first, and every message that has not ended.
    waiting: list[str] = field(default_factory=list)
    live: dict[str, str] = field(default_factory=dict)
    delayed: dict[str, tuple[int, str]] = field(default_factory=dict)
    # Who has a message: the delivery.
    leased: dict[str, int] = field(default_factory=dict)
    deliveries: dict[str, int] = field(default_factory=dict)
    # Deliveries that ended with the death of whoever had it.
    deaths: dict[str, int] = field(default_factory=dict)
    dead: dict[str, DeadLetter] = field(default_factory=dict)


class MemoryBroker:
    """Queues in memory. A message is live, delayed or dead under its key, and in one of these places only."""

    def __init__(self, delivery_limit: int = 3) -> None:
        """Take how many deliveries may end with a worker's death before a message is buried."""
        self.now_ms = 0
        self._limit = delivery_limit
        self._queues: dict[str, _Queue] = {}

    def publish(self, queue: str, message_key: str, message: str, due_ms: int = 0) -> int:
        """Put a message into its queue: 1 when it waits, 2 when it is delayed, 0 when its key is there already."""
        own = self._queue(queue)
        if message_key in own.delayed or message_key in own.live or message_key in own.dead:
            return 0
        if due_ms > self.now_ms:
            own.delayed[message_key] = (due_ms, message)
            return 2
        own.live[message_key] = message
        own.waiting.append(message_key)
        return 1

    def withdraw(self, queue: str, message_key: str) -> bool:
        """Take a message away that waits or is delayed; False when it runs or is not there."""
        own = self._queue(queue)
        if message_key in own.leased:
            return False
        found = own.live.pop(message_key, None) is not None or own.delayed.pop(message_key, None) is not None
        if found:
            own.deliveries.pop(message_key, None)
            own.deaths.pop(message_key, None)
        return found

    def pop(self, queues: Sequence[str]) -> Popped | None:
        """Take the next message of the first queue that has one; what has fallen due waits from now on."""
        for name in queues:
            own = self._queue(name)
            self._promote(own)
            while own.waiting:
                message_key = own.waiting.pop(0)
                if message_key in own.live and message_key not in own.leased:
                    delivery = own.deliveries.get(message_key, 0) + 1
                    own.deliveries[message_key] = own.leased[message_key] = delivery
                    return Popped(name, message_key, own.live[message_key], delivery)
        return None

    def settle(self, taken: Popped) -> bool:
        """End a message that is done; False when the lease is another delivery's."""
        own = self._queue(taken.queue)
        if own.leased.get(taken.message_key) != taken.delivery:
            return False
        self._forget(own, taken.message_key)
        return True

    def requeue(self, taken: Popped) -> bool:
        """Hand a message back to the head of its queue, as a worker that stops does."""
        own = self._queue(taken.queue)
        if own.leased.get(taken.message_key) != taken.delivery:
            return False
        del own.leased[taken.message_key]
        own.waiting.insert(0, taken.message_key)
        return True

    def postpone(self, taken: Popped, seconds: float) -> bool:
        """Hand a message back that is not for now."""
        own = self._queue(taken.queue)
        if own.leased.get(taken.message_key) != taken.delivery:
            return False
        del own.leased[taken.message_key]
        own.delayed[taken.message_key] = (self.now_ms + round(seconds * 1000), own.live.pop(taken.message_key))
        return True

    def lose(self, taken: Popped) -> str | None:
        """Let a lease run out whose worker was killed. Returns the reason when the message was buried."""
        own = self._queue(taken.queue)
        if own.leased.get(taken.message_key) != taken.delivery:
            return None
        own.deaths[taken.message_key] = own.deaths.get(taken.message_key, 0) + 1
        if own.deaths[taken.message_key] >= self._limit:
            self.bury(taken, "delivery.limit")
            return "delivery.limit"
        self.requeue(taken)
        return None

    def bury(self, taken: Popped, reason: str) -> bool:
        """Put a message among the dead letters; its task is told by whoever calls."""
        own = self._queue(taken.queue)
        if own.leased.get(taken.message_key) != taken.delivery:
            return False
        letter = DeadLetter(own.live[taken.message_key], reason, taken.delivery)
        self._forget(own, taken.message_key)
        own.dead[taken.message_key] = letter
        return True

    def redrive(self, queue: str, message_key: str) -> None:
        """Bring a dead letter back; its deliveries are counted on."""
        own = self._queue(queue)
        letter = own.dead.pop(message_key)
        own.live[message_key] = letter.message
        own.deliveries[message_key] = letter.deliveries
        own.waiting.append(message_key)

    def dead_letter(self, queue: str, message_key: str) -> DeadLetter | None:
        """Return a dead letter, or None."""
        return self._queue(queue).dead.get(message_key)

    def dead_letters(self) -> list[tuple[str, str]]:
        """Return the queue and the message key of each dead letter."""
        return [(name, key) for name, own in sorted(self._queues.items()) for key in own.dead]

    def live(self) -> set[str]:
        """Return the keys of all messages that have not ended, the delayed ones included."""
        return {key for own in self._queues.values() for key in (*own.live, *own.delayed)}

    def next_due_ms(self) -> int | None:
        """Return when the next delayed message falls due; None when there is none."""
        return min((due for own in self._queues.values() for due, _ in own.delayed.values()), default=None)

    def queues(self) -> list[str]:
        """Return the names of all queues that were ever used."""
        return sorted(self._queues)

    def _queue(self, name: str) -> _Queue:
        return self._queues.setdefault(name, _Queue())

    def _promote(self, own: _Queue) -> None:
        for message_key, (due_ms, message) in sorted(own.delayed.items(), key=lambda one: one[1][0]):
            if due_ms <= self.now_ms:
                del own.delayed[message_key]
                own.live[message_key] = message
                own.waiting.append(message_key)

    @staticmethod
    def _forget(own: _Queue, message_key: str) -> None:
        for place in (own.live, own.leased, own.deliveries, own.deaths):
            place.pop(message_key, None)
