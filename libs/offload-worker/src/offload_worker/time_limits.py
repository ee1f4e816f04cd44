"""How long a step's function may run. Waiting for Redis does not count, nor does what comes before and after it.

In a pool of processes (prefork), Celery's parent signals a soft limit to the child and kills it at the hard one. The
signal is for the function alone: a step that has its result is not failed because Redis is away as it stores it.

A coroutine is cancelled at its soft limit. Threads cannot be ended, so their whole process is. Past its deadline a
step's lease is not renewed any more, the worker stops taking messages, what else runs may end for a short while, the
rest is handed back, and the process exits with 70 (EX_SOFTWARE). Its supervisor starts a new one.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler
from celery.worker import state

from celery_leases import leases
from offload_worker import event_loop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

logger = logging.getLogger(__name__)

EXIT_CODE = 70
# What else runs has its own, shorter time limits: most of it ends well within this.
GRACE_SECONDS = 10.0
# A longer wait is an outage, after which the pool's parent gives the time back: see `celery_leases.worker`.
OUTAGE_SECONDS = 1.0


class _Clock:
    """The time that one function has left. It stands still while the function waits for Redis."""

    def __init__(self, name: str, seconds: float | None) -> None:
        self.name = name
        self.ends_at = math.inf if seconds is None else time.monotonic() + seconds
        self.suspended_at: float | None = None
        # Whether the soft limit came while it stood still.
        self.is_late = False

    def is_over(self) -> bool:
        return self.suspended_at is None and self.ends_at < time.monotonic()


# Of the function that is called here: a thread's, or a step's that shares its thread with others.
_current: contextvars.ContextVar[_Clock | None] = contextvars.ContextVar("clock", default=None)
_running: dict[str, _Clock] = {}
_watchdog: threading.Thread | None = None
_lock = threading.Lock()


@contextlib.contextmanager
def limit(seconds: float | None, delivery_tag: str, name: str) -> Iterator[None]:
    """Bound the function that is called inside: by `seconds`, or without them by the pool's own limits alone."""
    clock = _Clock(name, seconds)
    _current.set(clock)
    if seconds is not None:
        _running[delivery_tag] = clock
        _watch()
    try:
        yield
    finally:
        _current.set(None)
        _running.pop(delivery_tag, None)


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """Do not count what is waited for inside.

    Raises:
        SoftTimeLimitExceeded: at the end, when the limit came meanwhile and the wait was no outage.

    """
    clock = _current.get()
    if clock is None:
        yield
        return
    began = clock.suspended_at = time.monotonic()
    limit = event_loop.current_limit.get()
    if limit is not None:
        limit.suspend()
    try:
        yield
    finally:
        if limit is not None:
            limit.resume()
        waited = time.monotonic() - began
        clock.ends_at += waited
        clock.suspended_at = None
        is_late, clock.is_late = clock.is_late, False
    if is_late and waited < OUTAGE_SECONDS:
        raise SoftTimeLimitExceeded


def take_over_soft_limits() -> None:
    """Let the pool's soft limits reach functions alone. Elsewhere than in a child of a prefork pool, do nothing."""
    if signal.getsignal(SIG_SOFT_TIMEOUT) is soft_timeout_sighandler:
        signal.signal(SIG_SOFT_TIMEOUT, _on_soft_limit)


def _on_soft_limit(_number: int, _frame: FrameType | None) -> None:
    clock = _current.get()
    if clock is None:
        return
    if clock.suspended_at is not None:
        clock.is_late = True
        return
    raise SoftTimeLimitExceeded


def _watch() -> None:
    global _watchdog  # noqa: PLW0603 -- one a process
    with _lock:
        if _watchdog is None or not _watchdog.is_alive():
            _watchdog = threading.Thread(target=_look, name="time-limits", daemon=True)
            _watchdog.start()


def _look() -> None:
    while True:
        late = {delivery_tag: clock.name for delivery_tag, clock in list(_running.items()) if clock.is_over()}
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
