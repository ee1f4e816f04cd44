"""Total deadlines for steps in pools that have no time limits: threads cannot be ended, so the process is.

Past its deadline a step's lease is not renewed any more, the worker stops taking messages, what else runs may end for a
short while, the rest is handed back, and the process exits with 70 (EX_SOFTWARE). Its supervisor starts a new one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from celery.worker import state

from celery_leases import leases

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

EXIT_CODE = 70
# What else runs has its own, shorter time limits: most of it ends well within this.
GRACE_SECONDS = 10.0

_running: dict[str, tuple[float, str]] = {}
_watchdog: threading.Thread | None = None
_lock = threading.Lock()


@contextlib.contextmanager
def limit(seconds: float | None, delivery_tag: str, name: str) -> Iterator[None]:
    """Bound what happens inside. Without `seconds` there is no bound."""
    if seconds is None:
        yield
        return
    _running[delivery_tag] = (time.monotonic() + seconds, name)
    _watch()
    try:
        yield
    finally:
        _running.pop(delivery_tag, None)


def _watch() -> None:
    global _watchdog  # noqa: PLW0603 -- one a process
    with _lock:
        if _watchdog is None or not _watchdog.is_alive():
            _watchdog = threading.Thread(target=_look, name="deadlines", daemon=True)
            _watchdog.start()


def _look() -> None:
    while True:
        now = time.monotonic()
        late = {message_key: name for message_key, (ends, name) in list(_running.items()) if ends < now}
        if late:
            _end(late)
        time.sleep(0.2)


def _end(late: dict[str, str]) -> None:
    logger.critical("past the deadline of %s: this worker ends", ", ".join(late.values()))
    for holder in leases.holders():
        for delivery_tag in late:
            holder.abandon(delivery_tag)
    state.should_stop = EXIT_CODE
    give_up_at = time.monotonic() + GRACE_SECONDS
    while set(_running) - set(late) and time.monotonic() < give_up_at:
        time.sleep(0.1)
    for holder in leases.holders():
        holder.give_back(spare=late)
    logging.shutdown()
    os._exit(EXIT_CODE)
