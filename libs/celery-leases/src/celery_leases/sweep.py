"""The sweep: due messages join their queue, expired leases go back, dead letters are buried.

Every worker runs it once a second, and so may any other process that has a Redis client; one of them at a time does
the work. It may die anywhere: each move is one script, of some milliseconds at most. Dead letters are reported apart
from it (`celery_leases.reports`), so that a slow handler delays no message.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from celery_leases import keys, scripts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from celery_leases.options import Options

logger = logging.getLogger(__name__)

# Queues that one script looks at: well below a millisecond of Redis's time where nothing is to be moved.
QUEUES: Final = 50
# A queue that cannot be swept is named in the log once in so long.
_COMPLAINT_SECONDS: Final = 60.0


@dataclass(slots=True)
class Swept:
    """What one sweep did: how many messages it moved, and which queues it could not sweep, with the reason."""

    due: int = 0
    reclaimed: int = 0
    buried: int = 0
    # Queues that have dead letters to report.
    unreported: list[str] = field(default_factory=list)
    unswept: dict[str, str] = field(default_factory=dict)
    # Whether no lease is given back for now: Redis was unavailable or silent, or its clock has jumped.
    is_resting: bool = False


class Sweeper:
    """Sweeps all queues under one key prefix."""

    def __init__(self, client: redis.Redis, options: Options) -> None:
        """Take the client; it must answer or fail within a time that is short beside a lease."""
        self._client = client
        self._options = options
        self._complained_at: dict[str, float] = {}
        self._was_resting = False

    def sweep(self) -> Swept:
        """Sweep until nothing is left to move; does nothing when another process has begun to within this interval.

        Raises:
            redis.RedisError: when Redis cannot be reached; what was not moved is moved by the next sweep.

        """
        options, swept = self._options, Swept()
        times = [milliseconds(options.lease_seconds), milliseconds(options.sweep_interval_seconds)]
        found = scripts.BEGIN_SWEEP(self._client, [], [options.key_prefix, *times, *keys.PARTS]) or []
        names: list[str] = sorted(name.decode() for name in found)
        while names:
            done = self._sweep(names[:QUEUES], swept)
            names = names[done:]
        self._tell(swept)
        return swept

    def _sweep(self, queues: Sequence[str], swept: Swept) -> int:
        """Run the script once; returns how many of the queues, from the first on, are done."""
        options = self._options
        answer: list[Any] = scripts.SWEEP(
            self._client,
            [],
            [
                options.key_prefix,
                options.delivery_limit,
                options.shared_delivery_limit,
                milliseconds(options.lease_seconds),
                milliseconds(options.sweep_interval_seconds),
                milliseconds(options.tombstone_seconds),
                milliseconds(options.dead_letter_retention_seconds),
                *queues,
            ],
        )
        done, due, reclaimed, buried, unreported, unswept, rests_ms = answer
        swept.due += due
        swept.reclaimed += reclaimed
        swept.buried += buried
        swept.unreported += [name.decode() for name in unreported]
        for queue, error in zip(unswept[::2], unswept[1::2], strict=True):
            swept.unswept[queue.decode()] = error.decode("utf-8", "replace")
        swept.is_resting = rests_ms > 0
        return int(done)

    def _tell(self, swept: Swept) -> None:
        if swept.reclaimed or swept.buried:
            logger.warning("swept: %d messages given back, %d buried", swept.reclaimed, swept.buried)
        if swept.is_resting and not self._was_resting:
            logger.warning("Redis was silent, or its clock has jumped: leases are given back again after a lease")
        self._was_resting = swept.is_resting
        now = time.monotonic()
        for queue, error in swept.unswept.items():
            if now - self._complained_at.get(queue, float("-inf")) > _COMPLAINT_SECONDS:
                self._complained_at[queue] = now
                logger.error("queue %s cannot be swept, all others are: %s", queue, error)


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds."""
    return round(seconds * 1000)
