"""The leases that this process holds.

Leases belong to the process, not to a channel: Celery makes a new channel on each reconnect, while the tasks go on.
One `Holder` per process and broker has the owner's name, what is in flight, and two threads with connections of their
own: one renews the leases and settles again what could not be settled, the other one sweeps. A third one reports dead
letters when there are some.
"""

from __future__ import annotations

import contextlib

# Imported late by the socket module, in our threads, for a host's name: a pool's child that is forked at that moment
# would wait for ever for the import's lock.
import encodings.idna  # noqa: F401
import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from celery_leases import scripts, worker
from celery_leases.renewal import Delivery, StandIn, bounded_client, renew
from celery_leases.reports import Reporter
from celery_leases.sweep import Sweeper, milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import redis

    from celery_leases.options import Options
    from celery_leases.scripts import Argument

# Why a message was buried that nobody could make a task of.
UNDECODABLE: Final = "message.undecodable"

logger = logging.getLogger(__name__)

# A child tells its parent that it has begun within milliseconds; a second is ample, and short beside a lease.
DOUBT_SECONDS = 1.0

# After so long a new lease is confirmed: what ends before need not be.
CONFIRM_SECONDS = 0.01

# What happened in this process: "fenced", "settled_late", "lost", "reclaimed", "buried", "unknown_task", "unreceived"
# (an answer of the broker was lost), "duplicate" (a publish that was dropped), "unswept" (a queue could not be swept).
counters: Counter[str] = Counter()


@dataclass(frozen=True, slots=True)
class Lease:
    """One delivery of one message to this process."""

    queue: str
    message_key: str
    delivery: int
    priority: int = 0

    @property
    def delivery_tag(self) -> str:
        """The name of this delivery towards kombu; a message that comes back has another one."""
        return f"{self.queue}\x1f{self.message_key}\x1f{self.delivery}"

    @property
    def named(self) -> Delivery:
        """The name of this delivery towards Redis."""
        return Delivery(self.queue, self.message_key, self.delivery)


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a lease is to end: by a script, with its arguments after (prefix, queue, message key, owner, delivery)."""

    script: scripts.Script
    arguments: tuple[Argument, ...]


@dataclass(slots=True)
class _Held:
    """A lease that this process holds, and what is to become of it. Changed under the holder's lock."""

    lease: Lease
    # Called in the consumer's thread if the lease is lost.
    on_lost: Callable[[], object] | None = None
    # Renewed once, or about to be: the sweep blames a message alone for confirmed deliveries only.
    is_confirmed: bool = False
    # Not renewed any more.
    is_abandoned: bool = False
    # Its channel was closed: at this moment (monotonic seconds) it goes back, unless its task runs.
    decide_at: float | None = None
    # How to end it as soon as Redis can.
    ending: _Ending | None = None
    # The script that ends it is on its way: a renewal that finds the lease gone need not be told.
    is_ending: bool = False


class Holder:
    """All leases of this process at one broker."""

    def __init__(self, connection: Any, options: Options, pool: redis.ConnectionPool) -> None:  # noqa: ANN401 -- kombu's connection is untyped
        """Take a name; nothing is connected and no thread runs until the first consumer or lease."""
        self.options = options
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.client = bounded_client(pool, options)
        self._stand_in = StandIn(connection, options, self.owner)
        # By delivery tag.
        self._held: dict[str, _Held] = {}
        # Those whose lease is gone, until the consumer's thread has been told.
        self._lost: list[_Held] = []
        self._has_new = threading.Event()
        # The pollers that wait for an answer of the broker.
        self.awaited: set[str] = set()
        self._unreceived: list[tuple[str, int]] = []
        self._consumers = 0
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._last_tick = time.monotonic()
        # When Redis last did what was asked for a lease.
        self._answered_at = time.monotonic()
        # When this process last asked for a message; None before the first time.
        self.polled_at: float | None = None

    def add_consumer(self) -> None:
        """Begin to sweep: somebody takes messages from now on."""
        self._consumers += 1
        self._start()

    def remove_consumer(self) -> None:
        """Stop to sweep once nobody takes messages and nothing is held."""
        self._consumers = max(self._consumers - 1, 0)

    def hold(self, lease: Lease, on_lost: Callable[[], object]) -> None:
        """Begin to renew a lease. `on_lost` is called in the consumer's thread if it is lost."""
        with self._lock:
            self._held[lease.delivery_tag] = _Held(lease, on_lost)
            self._answered_at = time.monotonic()
            if worker.runs_tasks_itself() and not self._stand_in.add(lease.named):
                self._stand_in.tell(self._renewable())
        self._start()
        self._has_new.set()

    def miss(self, poller: str, number: int) -> None:
        """Note that the answer of a pop was lost: what it took is given back, and nobody is blamed."""
        with self._lock:
            self._unreceived.append((poller, number))
        self._start()

    def abandon(self, delivery_tag: str) -> None:
        """Stop renewing one lease: its task is past any deadline, and another worker shall have it."""
        with self._lock:
            if delivery_tag in self._held:
                self._held[delivery_tag].is_abandoned = True

    def doubt(self, delivery_tag: str) -> None:
        """Note a message whose channel was closed. It goes back unless its task turns out to run.

        A pool's child that has just begun is known a moment later, and a message that never reached a child is
        dropped by Celery without a word: neither may be decided on the spot.
        """
        with self._lock:
            if delivery_tag in self._held:
                self._held[delivery_tag].decide_at = time.monotonic() + DOUBT_SECONDS

    def settle(self, delivery_tag: str) -> None:
        """End a message that is done. Never raises: what Redis cannot take now is settled later."""
        held = self._held.get(delivery_tag)
        if held is not None:
            tombstone = milliseconds(self.options.tombstone_seconds)
            self._end(held, _Ending(scripts.SETTLE, (tombstone, held.lease.priority)))

    def requeue(self, delivery_tag: str) -> None:
        """Hand a message back to the head of its queue; nobody is blamed. Never raises."""
        self._hand_back(delivery_tag, "requeue")

    def fail(self, delivery_tag: str) -> None:
        """Hand a message back whose delivery ended badly; at the limit it is buried. Never raises."""
        self._hand_back(delivery_tag, "failed", self.options.delivery_limit)

    def bury(self, delivery_tag: str, reason: str) -> None:
        """Put a message among the dead letters. Never raises."""
        self._hand_back(delivery_tag, "bury", reason)

    def give_back(self, *, spare: Collection[str] = ()) -> None:
        """Hand back all that is held, but those in `spare`; nobody is blamed. For a process that is about to end.

        What is done already, and could not be settled so far, is settled rather than done again.
        """
        with contextlib.suppress(RedisError, OSError):
            self._settle_late()
        for delivery_tag, held in list(self._held.items()):
            if delivery_tag not in spare and held.ending is None:
                self.requeue(delivery_tag)

    def refuse(self, lease: Lease) -> None:
        """Hand back a message whose task this worker does not know. Never raises."""
        counters["unknown_task"] += 1
        with self._lock:
            self._held[lease.delivery_tag] = _Held(lease, is_confirmed=True)
        options = self.options
        delay = milliseconds(options.unknown_task_delay_seconds)
        grace = milliseconds(options.unknown_task_grace_seconds)
        self._hand_back(lease.delivery_tag, "unknown", delay, grace)

    def postpone(self, lease: Lease) -> None:
        """Hand back a message of a task of which this worker has enough. Never raises."""
        with self._lock:
            self._held[lease.delivery_tag] = _Held(lease, is_confirmed=True)
        self._hand_back(lease.delivery_tag, "later", milliseconds(self.options.run_limit_delay_seconds))

    def defer(self, delivery_tag: str, seconds: float) -> None:
        """Hand back the message of a task that is not for now, to be delivered after so long. Never raises."""
        self._hand_back(delivery_tag, "later", milliseconds(seconds))

    def tick(self) -> None:
        """Note that the consumer's loop is alive, and free the slots of leases that were lost. In its thread."""
        self._last_tick = time.monotonic()
        while self._lost:
            held = self._lost.pop()
            worker.cancel(held.lease.delivery_tag)
            if held.on_lost is not None:
                held.on_lost()

    def _hand_back(self, delivery_tag: str, *how: Argument) -> None:
        held = self._held.get(delivery_tag)
        if held is not None:
            self._end(held, _Ending(scripts.HAND_BACK, how))

    def _end(self, held: _Held, ending: _Ending) -> None:
        """End a lease now, or note to do so; until then it is renewed."""
        try:
            self._run(held, ending)
        except (RedisError, OSError) as error:
            logger.warning("%s cannot be settled now and will be: %s", held.lease.message_key, error)
            with self._lock:
                held.ending = ending

    def _run(self, held: _Held, ending: _Ending) -> None:
        lease = held.lease
        arguments = (
            self.options.key_prefix,
            lease.queue,
            lease.message_key,
            self.owner,
            lease.delivery,
            *ending.arguments,
        )
        with self._lock:
            held.is_ending = True
        try:
            outcome = ending.script(self.client, [], arguments)
        except BaseException:
            with self._lock:
                held.is_ending = False
            raise
        if outcome == 0:
            counters["fenced"] += 1
            logger.warning("fenced: delivery %d of %s is not ours any more", lease.delivery, lease.message_key)
        with self._lock:
            self._held.pop(lease.delivery_tag, None)

    def _start(self) -> None:
        for name, work in (("leases", self._keep), ("sweep", self._sweep)):
            thread = self._threads.get(name)
            if thread is None or not thread.is_alive():
                self._threads[name] = threading.Thread(target=work, name=name, daemon=True)
                self._threads[name].start()

    @property
    def is_cut_off(self) -> bool:
        """Whether what is held could not be renewed for three leases: nobody can be told what comes of it."""
        return bool(self._held) and time.monotonic() - self._answered_at > 3 * self.options.lease_seconds

    @property
    def _is_needed(self) -> bool:
        """Whether somebody takes messages, or something is held."""
        return bool(self._consumers or self._held or self._unreceived)

    def _keep(self) -> None:
        """Renew what is held and settle what could not be settled. Runs in a thread of its own."""
        renewal_seconds = self.options.lease_seconds / 3
        renewed_at = float("-inf")
        while self._is_needed:
            now = time.monotonic()
            try:
                self._brief_stand_in()
                self._give_back_unreceived()
                is_due = now - renewed_at >= renewal_seconds
                # A new lease is confirmed at once.
                if is_due or self._has_unconfirmed():
                    self._renew(every=is_due)
                    renewed_at = now if is_due else renewed_at
                self._settle_late()
                self._decide_doubts(now)
            except (RedisError, OSError) as error:
                logger.warning("leases cannot be renewed now: %s", error)
            except Exception:
                logger.exception("leases could not be renewed: unexpected error")
            if self._has_new.wait(min(renewal_seconds, 1.0)):
                self._has_new.clear()
                time.sleep(CONFIRM_SECONDS)

    def _brief_stand_in(self) -> None:
        """Tell the stand-in what it would have to renew, where tasks run in this process."""
        if worker.runs_tasks_itself():
            with self._lock:
                self._stand_in.tell(self._renewable())

    def _renewable(self) -> list[Delivery]:
        return [held.lease.named for held in self._held.values() if not held.is_abandoned]

    def _has_unconfirmed(self) -> bool:
        with self._lock:
            return not all(held.is_confirmed for held in self._held.values())

    def _sweep(self) -> None:
        """Sweep. Runs in a thread of its own: it may have much to do, and renewals must not wait for it."""
        options = self.options
        sweeper = Sweeper(self.client, options)
        reporter = Reporter(lambda: self.client, options)
        while self._is_needed:
            try:
                swept = sweeper.sweep()
                counters["reclaimed"] += swept.reclaimed
                counters["buried"] += swept.buried
                counters["unswept"] += len(swept.unswept)
                reporter.notice(swept.unreported)
            except (RedisError, OSError) as error:
                logger.info("cannot sweep now: %s", error)
            except Exception:
                logger.exception("could not sweep: unexpected error")
            time.sleep(options.sweep_interval_seconds)

    def _give_back_unreceived(self) -> None:
        while self._unreceived:
            poller, number = self._unreceived[0]
            counters["unreceived"] += scripts.GIVE_BACK(
                self.client, [], [self.options.key_prefix, self.owner, poller, number]
            )
            with self._lock:
                self._unreceived.pop(0)

    def _renew(self, *, every: bool) -> None:
        """Renew the leases: `every` one, or those alone that were not renewed so far."""
        if self._is_hung():
            logger.error("the consumer's loop stands still and nothing runs: leases are not renewed")
            return
        with self._lock:
            renewed = {
                held.lease.named: held
                for held in self._held.values()
                if (every or not held.is_confirmed) and not held.is_abandoned
            }
            for held in renewed.values():
                held.is_confirmed = True
        for lost in renew(self.client, self.options, self.owner, renewed):
            self._lose(renewed[lost])
        self._answered_at = time.monotonic()

    def _lose(self, held: _Held) -> None:
        lease = held.lease
        with self._lock:
            if held.is_ending or self._held.pop(lease.delivery_tag, None) is None:
                return  # it was settled while the renewal was on its way
        counters["lost"] += 1
        logger.warning("lost: the lease of delivery %d of %s has ended", lease.delivery, lease.message_key)
        self._lost.append(held)

    def _settle_late(self) -> None:
        with self._lock:
            ended = [(held, held.ending) for held in self._held.values() if held.ending is not None]
        for held, ending in ended:
            self._run(held, ending)
            counters["settled_late"] += 1

    def _decide_doubts(self, now: float) -> None:
        with self._lock:
            decided = [held for held in self._held.values() if held.decide_at is not None and held.decide_at <= now]
            for held in decided:
                held.decide_at = None
        for held in decided:
            if not worker.is_active(held.lease.delivery_tag):
                self.requeue(held.lease.delivery_tag)

    def _is_hung(self) -> bool:
        """Return whether the consumer's loop has stopped although no task runs: then others shall have its messages."""
        silent_seconds = time.monotonic() - self._last_tick
        return silent_seconds > max(self.options.lease_seconds, 5) and not worker.is_working()


_holders: dict[tuple[str, Options], Holder] = {}


def holder_for(connection: Any, options: Options, new_pool: Callable[[], redis.ConnectionPool]) -> Holder:  # noqa: ANN401 -- kombu's connection is untyped
    """Return this process's holder for the broker of a kombu connection."""
    url = connection.as_uri(include_password=True)
    holder = _holders.get((url, options))
    if holder is None:
        # Made now: the channel that asks may be closed when the first lease is to be renewed.
        holder = _holders[url, options] = Holder(connection, options, new_pool())
    return holder


def holders() -> list[Holder]:
    """Return all holders of this process."""
    return list(_holders.values())


def tick() -> None:
    """Tell every holder that the consumer's loop is alive. Called once in each turn of it."""
    for holder in _holders.values():
        holder.tick()
        worker.end_hung_children(holder.options.begin_seconds)


# A pool's child holds nothing: its parent renews and settles.
os.register_at_fork(after_in_child=_holders.clear)
