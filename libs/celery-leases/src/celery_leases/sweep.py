"""The sweep: due messages join their queue, expired leases go back, dead letters are buried and reported.

Every worker runs it once a second, and so may any other process that has a Redis client. It may die anywhere: each
move is one script, and a dead letter is reported until its handler has returned.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kombu.utils.imports import symbol_by_name

from celery_leases import keys, scripts
from celery_leases.admin import decode

if TYPE_CHECKING:
    import redis

    from celery_leases.options import DeadLetterHandler, Options

logger = logging.getLogger(__name__)

# Moves of each kind and queue in one script: about 5 ms of Redis's time at most.
BATCH = 500


@dataclass(frozen=True, slots=True)
class Swept:
    """How many messages one sweep moved."""

    due: int
    reclaimed: int
    buried: int
    reported: int


class Sweeper:
    """Sweeps all queues under one key prefix."""

    def __init__(self, client: redis.Redis, options: Options) -> None:
        """Resolve the dead letter handler, if there is one."""
        self._client = client
        self._options = options
        handler = options.on_dead_letter
        self._on_dead_letter: DeadLetterHandler | None = symbol_by_name(handler) if handler else None

    def sweep(self) -> Swept:
        """Run until nothing is due any more; returns what was moved.

        Raises:
            redis.RedisError: when Redis cannot be reached; what was not moved is moved by the next sweep.

        """
        due = reclaimed = buried = reported = 0
        while True:
            one_due, one_reclaimed, one_buried, letters = self._run()
            due, reclaimed, buried = due + one_due, reclaimed + one_reclaimed, buried + one_buried
            for position in range(0, len(letters), 3):
                queue, tag, letter = letters[position : position + 3]
                reported += self._report(queue.decode(), tag.decode(), letter)
            if max(one_due, one_reclaimed, one_buried) < BATCH:
                break
        if reclaimed or buried:
            logger.warning("swept: %d messages given back, %d buried", reclaimed, buried)
        return Swept(due, reclaimed, buried, reported)

    def _run(self) -> tuple[int, int, int, list[bytes]]:
        options = self._options
        result: tuple[int, int, int, list[bytes]] = scripts.SWEEP(
            self._client,
            [keys.registry(options.key_prefix)],
            [
                options.key_prefix,
                options.delivery_limit,
                options.shared_delivery_limit,
                milliseconds(options.lease_seconds),
                milliseconds(options.tombstone_seconds),
                milliseconds(options.dead_letter_retention_seconds),
                BATCH,
                1 if self._on_dead_letter else 0,
            ],
        )
        return result

    def _report(self, queue: str, tag: str, letter: bytes) -> int:
        """Call the handler; on any error the letter stays unreported and is tried again after a lease."""
        assert self._on_dead_letter is not None  # noqa: S101 -- the script returns letters only when asked to
        fields = json.loads(letter.decode("utf-8", "replace"))
        try:
            self._on_dead_letter(decode(fields["message"]), fields["reason"])
        except Exception:
            logger.exception("dead letter %s of %s could not be reported; it is tried again", tag, queue)
            return 0
        scripts.REPORTED(self._client, [f"{self._options.key_prefix}{queue}"], [tag])
        return 1


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds."""
    return round(seconds * 1000)
