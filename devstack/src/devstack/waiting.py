"""Waiting for a condition with a deadline, never for a fixed time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def until[T](condition: Callable[[], T], what: str, *, seconds: float = 30.0, pause_seconds: float = 0.05) -> T:
    """Return the first true value of `condition`.

    Raises:
        TimeoutError: naming `what` was waited for, when it did not come true in time.

    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            message = f"waited {seconds:g} s for {what}; last seen: {value!r}"
            raise TimeoutError(message)
        time.sleep(pause_seconds)
