"""Dead letters are reported: ``on_dead_letter`` is called for each until it has returned.

It is apart from the sweep, and each call is bounded in time: a handler that hangs delays neither a message nor, but for
its time, the next dead letter.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from kombu.utils.imports import symbol_by_name
from redis.exceptions import RedisError

from celery_leases import scripts
from celery_leases.admin import decode
from celery_leases.sweep import milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import redis

    from celery_leases.options import DeadLetterHandler, Options

logger = logging.getLogger(__name__)

# Handlers that hang keep a thread each; with so many of them nothing more is reported until one returns.
MOST_HANGING: Final = 4


class Reporter:
    """Reports the dead letters of one process, in a thread of its own."""

    def __init__(self, client: Callable[[], redis.Redis], options: Options) -> None:
        """Resolve the handler, if there is one. `client` is called when there is something to report."""
        self._client = client
        self._options = options
        handler = options.on_dead_letter
        self._handler: DeadLetterHandler | None = symbol_by_name(handler) if handler else None
        self._queues: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._hanging: list[threading.Thread] = []

    def notice(self, queues: Collection[str]) -> None:
        """Report the dead letters of these queues in the background."""
        if self._handler is None or not queues:
            return
        with self._lock:
            self._queues |= set(queues)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="dead letters", daemon=True)
                self._thread.start()

    def report(self, queue: str) -> int:
        """Report the dead letters of a queue that are due; returns for how many the handler has returned.

        Raises:
            redis.RedisError: when Redis cannot be reached; what was not reported is, by whoever sweeps next.

        """
        options, reported = self._options, 0
        # Whoever comes next tries again only when this one had its time.
        claim = milliseconds(max(options.lease_seconds, 2 * options.on_dead_letter_seconds))
        while self._may_report():
            letters: list[bytes] = scripts.REPORT(self._client(), [], [options.key_prefix, queue, claim])
            if not letters:
                break
            for message_key, letter in zip(letters[::2], letters[1::2], strict=True):
                reported += self._may_report() and self._call(queue, message_key.decode(), letter)
        return reported

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queues:
                    self._thread = None
                    return
                queue = self._queues.pop()
            try:
                self.report(queue)
            except (RedisError, OSError) as error:
                logger.info("cannot report dead letters now: %s", error)
            except Exception:
                logger.exception("dead letters of %s could not be reported: unexpected error", queue)

    def _may_report(self) -> bool:
        self._hanging = [thread for thread in self._hanging if thread.is_alive()]
        return self._handler is not None and len(self._hanging) < MOST_HANGING

    def _call(self, queue: str, message_key: str, letter: bytes) -> bool:
        """Call the handler; on any error, and while it has not returned, the letter stays unreported."""
        options = self._options
        fields = json.loads(letter.decode("utf-8", "replace"))
        outcome: list[bool] = []

        def run(handler: Any = self._handler) -> None:  # noqa: ANN401 -- it is not None here
            try:
                handler(decode(fields["message"]), fields["reason"])
                scripts.REPORTED(self._client(), [f"{options.key_prefix}{queue}"], [message_key])
                outcome.append(True)
            except Exception:
                logger.exception("dead letter %s of %s could not be reported; it is tried again", message_key, queue)
                outcome.append(False)

        thread = threading.Thread(target=run, name=f"dead letter {message_key}", daemon=True)
        thread.start()
        thread.join(options.on_dead_letter_seconds)
        if not outcome:
            self._hanging.append(thread)
            logger.error(
                "on_dead_letter has not returned for dead letter %s of %s, and is left to itself", message_key, queue
            )
        return outcome == [True]
