"""A pool process's memory is limited: an image that needs more fails with a code, and kills nobody beside it.

Time is limited too, by the hard time limit: the parent ends a child that passes it, whatever it is computing.
"""

from __future__ import annotations

import resource
from functools import partial

from celery import signals


def install(limit_bytes: int) -> None:
    """Limit every pool process that is forked from now on."""
    signals.worker_process_init.connect(partial(_limit, limit_bytes), weak=False)


def _limit(limit_bytes: int, /, **_: object) -> None:
    """Limit this process's own writable memory. Past it an allocation fails, which Python raises as MemoryError."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
