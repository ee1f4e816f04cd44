"""Every Redis key of the broker. A queue's keys are ``{prefix}{queue}:{part}``; the part never holds a colon.

Beside the queues the scripts keep, each with the prefix before it: ``held`` (hash: owner -> how many leases it has),
``popped:{owner}:{poller}`` (what its last pop took), ``lost-owner:{owner}`` (died with several leases), ``sweep``
(hash: when it was last swept, until when no lease is given back, the longest lease), ``sweep-turn`` (somebody sweeps),
``revoked`` (sorted set: task id -> when it was revoked).
"""

from __future__ import annotations

from typing import Final

# The list of message keys that wait. Priorities 1 to 9, below 0, have lists of their own: "waiting.1", "waiting.2", ...
WAITING: Final = "waiting"
# hash: message key -> message, for all that waits or runs. Its HLEN is the queue's drain-aware depth.
LIVE: Final = "live"
# sorted set: message key -> milliseconds (Redis's clock) at which its lease ends, and a half more until its owner has
# confirmed that it has it. Its ZCARD is what runs.
LEASES: Final = "leases"
# hash: message key -> "owner delivery" of the lease.
OWNERS: Final = "owners"
# hash: message key -> "deliveries own shared unknown_since", written when a delivery did not end in an acknowledgement.
HISTORY: Final = "history"
# hash: message key -> priority, for those that are not 0.
PRIORITIES: Final = "priorities"
# sorted set: message key -> milliseconds at which it is due; and the messages of those keys.
DELAYED: Final = "delayed"
DELAYED_MESSAGES: Final = "delayed-messages"
# By message key: the dead letters (hash of JSON), their times of death, and when to report each, again (sorted sets).
DEAD: Final = "dead"
DEAD_AT: Final = "dead-at"
UNREPORTED: Final = "unreported"
# hash: message key -> how it died before (JSON), of messages that were redriven and have not ended since.
DEATHS: Final = "deaths"
# sorted set: message key -> time of its acknowledgement (tombstones).
SETTLED: Final = "settled"
# list: one element for each wake-up that an idle worker may take.
WAKE_UP: Final = "bell"
# string: the queue's x-expires in milliseconds, which ends when the queue has not been used for so long.
EXPIRES: Final = "expires"
# hash: note, since_ms, until_ms (0: no end). While it is there, nothing of the queue is delivered.
PAUSE: Final = "pause"
# hash: max_running, rate_per_second, and of a rate how many deliveries are saved (tokens) since when (counted_at, ms).
LIMITS: Final = "limits"

WAITING_LISTS: Final = (WAITING, *(f"{WAITING}.{priority}" for priority in range(1, 10)))
PARTS: Final = (
    *WAITING_LISTS, LIVE, LEASES, OWNERS, HISTORY, PRIORITIES,
    DELAYED, DELAYED_MESSAGES, DEAD, DEAD_AT, UNREPORTED, DEATHS, SETTLED, WAKE_UP, EXPIRES, PAUSE, LIMITS,
)  # fmt: skip


def registry(prefix: str) -> str:
    """Return the key of the set of the names of all queues that hold anything."""
    return f"{prefix}queues"


def expiring(prefix: str) -> str:
    """Return the key of the set of the names of all queues with an ``x-expires``."""
    return f"{prefix}expiring"


def key(prefix: str, queue: str, part: str) -> str:
    """Return the key of one part of a queue."""
    return f"{prefix}{queue}:{part}"
