"""The drain deadline: what a stopping worker has not finished by then is handed back, and the worker exits with 0.

SIGTERM begins Celery's warm shutdown: nothing more is taken, and what runs may end. Celery would wait for that without
end, until its supervisor kills it and the leases run out. So at the deadline, which comes before the supervisor's grace
ends, the rest is handed back at once, to the head of its queue and with nobody blamed.

A worker that Redis has been gone from for three leases does not wait for the deadline: its leases have run out, and
nothing that it finishes can be recorded. So it is when a whole release is removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time

import billiard
from celery import signals

from celery_leases import leases

logger = logging.getLogger(__name__)

# Handing back takes milliseconds; where Redis is unavailable it cannot be done, and the leases run out instead.
HAND_BACK_SECONDS = 3.0

_lock = threading.Lock()
_has_begun = False


def install(seconds: float) -> None:
    """Let this process's worker end at most `seconds` after it was told to stop."""

    def begin(**_: object) -> None:
        global _has_begun  # noqa: PLW0603 -- one worker a process
        with _lock:
            if _has_begun:
                return
            _has_begun = True
        logger.info("stopping: what runs may end within %g s", seconds)
        # A thread, not the loop's timer: the loop has ended while Celery waits for its pool.
        threading.Thread(target=_end_after, args=(seconds,), name="drain", daemon=True).start()

    signals.worker_shutting_down.connect(begin, weak=False)


def _end_after(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if any(holder.is_cut_off for holder in leases.holders()):
            logger.warning("Redis is gone, and with it the leases of what runs: it is given up")
            break
        time.sleep(min(left, 1.0))
    else:
        logger.warning("the drain deadline is reached: what runs is handed back")
    handing_back = threading.Thread(target=_hand_back, name="hand-back", daemon=True)
    handing_back.start()
    handing_back.join(HAND_BACK_SECONDS)
    for child in billiard.active_children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    logging.shutdown()
    os._exit(0)


def _hand_back() -> None:
    for holder in leases.holders():
        holder.give_back()
